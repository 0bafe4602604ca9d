// The runs themselves: what they are, how validation went, and their figures.

import { shadowText } from "./cards.js";
import { curves } from "./charts.js";
import { count, el, fill, wordFor } from "./dom.js";
import { ask } from "./service.js";
import { note } from "./state.js";

const USUAL = "recall@20";

/** Make the view. */
export function runsView({ state, runs, signal }) {
  const place = el("div");
  fill(place, shadowText, async () => {
    const names = runs.map((run) => run.name);
    const now = (await ask("/runs", {}, { signal })).runs.filter((run) => names.includes(run.name));
    return [facts(now), validation(now, state), figures(now)];
  }, signal);
  return el("div", null, el("h1", { tabindex: -1 }, runs.length > 1 ? "The runs" : runs[0].name), place);
}

function facts(runs) {
  const rows = [
    ["Model", (run) => run.model],
    ["Data", (run) => `${run.data}: ${count(run.users, "user")}, ${count(run.items, "item")}`],
    ["Split", (run) => run.split.rule ?? run.split.kind],
    ["Seed", (run) => run.seed],
    ["Content", (run) => run.modalities.map(wordFor).join(", ") || "none at hand"],
    ["Kept epoch", (run) => run.best_epoch],
    ["Version", (run) => el("code", null, run.version)],
  ];
  return el("div", { class: "facts" }, runs.map((run) =>
    el("section", { "aria-label": run.name },
      runs.length > 1 && el("h2", null, run.name),
      el("dl", null, rows.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value(run))))))));
}

function validation(runs, state) {
  const trained = runs.filter((run) => run.curve.length);
  const untrained = runs.filter((run) => !run.curve.length).map((run) => run.name);
  const title = el("h2", { id: "curve-title" }, "Validation by epoch");
  const without = untrained.length > 0 && el("p", { class: "empty" }, `${untrained.join(" and ")}: no curve, since nothing was validated by epoch.`);
  if (!trained.length) return el("section", null, title, without);
  const metrics = [...new Set(trained.flatMap((run) => run.curve.flatMap((epoch) => Object.keys(epoch.valid))))];
  let metric = [state.metric, USUAL, metrics[0]].find((name) => metrics.includes(name));
  const place = el("div");
  const draw = () => place.replaceChildren(curves(
    trained.map((run) => ({
      name: run.name,
      best: run.best_epoch,
      points: run.curve.filter((epoch) => metric in epoch.valid).map((epoch) => ({ x: epoch.epoch, y: epoch.valid[metric] })),
    })).filter((line) => line.points.length), metric));
  draw();
  return el("section", { "aria-labelledby": "curve-title" },
    el("div", { class: "section-head" }, title,
      el("label", { class: "select" }, "Metric ",
        el("select", { change: (event) => { metric = event.target.value; note({ metric }); draw(); } },
          metrics.map((name) => el("option", { value: name, selected: name === metric }, name))))),
    place, without);
}

function figures(runs) {
  const parts = ["valid", "test"].filter((part) => runs.some((run) => Object.keys(run.metrics[part] ?? {}).length));
  const names = [...new Set(runs.flatMap((run) => parts.flatMap((part) => Object.keys(run.metrics[part] ?? {}))))];
  const { protocol } = runs[0];
  const title = el("h2", { id: "figures-title" }, "Figures");
  if (!names.length) return el("section", null, title, el("p", { class: "empty" }, "These runs were not evaluated."));
  return el("section", { "aria-labelledby": "figures-title" }, title,
    protocol.candidates && el("p", { class: "quiet" }, `Ranked: ${protocol.candidates}.${runs.length > 1 ? " The best run by each figure is marked." : ""}`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "figures-title" },
      el("table", { class: "figures" },
        el("thead", null,
          runs.length > 1 && el("tr", null, el("td"), runs.map((run) => el("th", { scope: "colgroup", colspan: parts.length }, run.name))),
          el("tr", null, el("th", { scope: "col" }, "Metric"), runs.flatMap(() => parts.map((part) => el("th", { scope: "col" }, part))))),
        el("tbody", null, names.map((name) =>
          el("tr", null, el("th", { scope: "row" }, name), runs.flatMap((run) => parts.map((part) => {
            const value = run.metrics[part]?.[name];
            if (value == null) return el("td", null, "–");
            const best = runs.length > 1 && value === Math.max(...runs.map((one) => one.metrics[part]?.[name] ?? -Infinity));
            return el("td", null, el(best ? "b" : "span", null, value.toFixed(4)));
          }))))))));
}
