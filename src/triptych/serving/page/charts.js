// Two drawings: what a score is made of, and how validation went.

import { el, figure, percent, styled, svg, wordFor } from "./dom.js";

const HEIGHT = 300;
const EDGE = { top: 14, right: 14, bottom: 34, left: 46 };

/** Bars of the parts of a score, from a common zero; each row says its numbers. */
export function shares(why) {
  const values = Object.values(why.shares);
  const low = Math.min(0, ...values);
  const span = Math.max(0, ...values) - low || 1;
  return el("table", { class: "shares" },
    el("caption", { class: "unseen" }, "Parts of the score"),
    el("thead", { class: "unseen" }, el("tr", null, ["Part", "Bar", "Share", "Adds"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null,
      Object.entries(why.shares).map(([part, share]) =>
        el("tr", null,
          el("th", { scope: "row" }, wordFor(part)),
          el("td", { class: "track", "aria-hidden": "true" },
            styled(el("i", { class: share < 0 ? "against" : null }),
              { from: (Math.min(0, share) - low) / span, size: Math.abs(share) / span }),
            styled(el("b"), { from: -low / span })),
          el("td", null, percent(share)),
          el("td", { class: "quiet" }, why.parts[part] < 0 ? "" : "+", figure(why.parts[part]))))));
}

/** Give up to `most` round numbers that cover a range. */
export function ticks(low, high, most = 5) {
  const rough = (high - low || Math.abs(high) || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

/** One line for each run over its epochs. Pointer or arrow keys read it off.
 *
 * lines: [{name, best, points: [{x, y}]}], each with a point at least. */
export function curves(lines, metric) {
  const all = lines.flatMap((line) => line.points);
  const ys = ticks(Math.min(...all.map((point) => point.y)), Math.max(...all.map((point) => point.y)));
  const furthest = Math.max(...all.map((point) => point.x), 2);
  const xs = ticks(0, furthest, 6).filter((x) => Number.isInteger(x) && x <= furthest);
  const epochs = [...new Set(all.map((point) => point.x))].sort((a, b) => a - b);
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const place = el("div", { class: "plot" });
  let right;
  let cursor = null;

  const across = (x) => EDGE.left + (x / furthest) * (right - EDGE.left);
  const up = (y) => HEIGHT - EDGE.bottom - ((y - ys[0]) / (ys.at(-1) - ys[0])) * (HEIGHT - EDGE.bottom - EDGE.top);

  function draw(width) {
    right = width - EDGE.right;
    const summary = lines.map((line) => {
      const best = bestOf(line);
      return `${line.name}: ${best.y.toFixed(4)} at epoch ${best.x}`;
    });
    const shown = svg("svg", {
      width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", tabindex: 0,
      "aria-label": `${metric} on validation by epoch. Kept: ${summary.join("; ")}. Arrow keys read it off.`,
      pointermove: (event) => read(event.clientX - shown.getBoundingClientRect().left),
      pointerleave: () => point(null),
      blur: () => point(null),
      keydown: (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const at = cursor === null ? (by > 0 ? -1 : epochs.length) : epochs.indexOf(cursor);
        point(epochs[Math.min(epochs.length - 1, Math.max(0, at + by))]);
      },
    },
    ys.map((y) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: right, y1: up(y), y2: up(y) }),
      svg("text", { x: EDGE.left - 8, y: up(y) + 4, "text-anchor": "end" }, y),
    ]),
    xs.map((x) => svg("text", { x: across(x), y: HEIGHT - 12, "text-anchor": "middle" }, x)),
    svg("text", { x: right, y: HEIGHT - EDGE.bottom - 8, "text-anchor": "end" }, "epoch"),
    svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" }),
    lines.map((line, at) => {
      const best = bestOf(line);
      return svg("g", { class: `line line-${at}` },
        svg("polyline", { points: line.points.map(({ x, y }) => `${across(x)},${up(y)}`).join(" ") }),
        svg("circle", { cx: across(best.x), cy: up(best.y), r: 4.5 }));
    }));
    place.replaceChildren(shown);
    point(cursor);
  }

  function read(left) {
    const x = ((left - EDGE.left) / (right - EDGE.left)) * furthest;
    point(epochs.reduce((near, epoch) => (Math.abs(epoch - x) < Math.abs(near - x) ? epoch : near)));
  }

  function point(epoch) {
    cursor = epoch;
    const mark = place.querySelector(".cursor");
    mark.setAttribute("visibility", epoch === null ? "hidden" : "visible");
    if (epoch === null) {
      readout.textContent = "A dot marks the epoch whose weights were kept.";
      return;
    }
    mark.setAttribute("x1", across(epoch));
    mark.setAttribute("x2", across(epoch));
    const told = lines.flatMap((line) => {
      const found = line.points.find((one) => one.x === epoch);
      return found ? [`${line.name} ${found.y.toFixed(4)}`] : [];
    });
    readout.textContent = `Epoch ${epoch}: ${told.join(", ")}`;
  }

  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== drawn) draw((drawn = width));
  }).observe(place);
  return el("figure", { class: "curves" },
    el("ul", { class: "legend" }, lines.map((line, at) =>
      el("li", { class: `line-${at}` },
        svg("svg", { width: 28, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 28, y1: 4, y2: 4 })), line.name))),
    place, el("figcaption", null, readout));
}

const bestOf = (line) => line.points.find((point) => point.x === line.best) ?? line.points.at(-1);
