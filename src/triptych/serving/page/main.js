// The page follows the address: whatever changes it, `render` shows it.

import { shadowText } from "./cards.js";
import { el, fill } from "./dom.js";
import { hideItem, showItem } from "./item.js";
import { newView } from "./new.js";
import { runsView } from "./runs.js";
import { ask } from "./service.js";
import { changed, closed, go, hash, read } from "./state.js";
import { userView } from "./user.js";

const MOST_RUNS = 3;
const VIEWS = [["user", "Users", userView], ["new", "New item", newView], ["runs", "Runs", runsView]];

const main = document.getElementById("main");
const chooser = document.getElementById("chooser");
const stage = el("div");
let loaded = [];
let view = { key: null, stop: new AbortController() };
let over = { key: null, stop: new AbortController() };

/** Work out which runs a state is of, and by which keys its view and the item over it are told from others. */
function resolve() {
  const state = read();
  const known = [...new Set(state.run)].map((name) => loaded.find((run) => run.name === name)).filter(Boolean);
  const runs = (known.length ? known : [loaded[0]]).slice(0, MOST_RUNS);
  const own = { user: ["user", "heldout"], new: ["text"], runs: ["metric"] }[state.view];
  const pick = (names) => Object.fromEntries(names.map((name) => [name, state[name]]));
  return {
    state,
    runs,
    viewKey: hash({ view: state.view, run: state.run, ...pick(own) }),
    itemKey: state.item ? hash(pick(["item", "of", "tab", "user"])) : null,
  };
}

/** Stop what was asked for before. */
function next(old, key) {
  old.stop.abort();
  return { key, stop: new AbortController() };
}

/** Show what surrounds a view. */
function frame({ state, runs }) {
  document.getElementById("views").replaceChildren(...VIEWS.map(([name, label]) =>
    el("a", { href: changed({ view: name, ...closed }), "aria-current": name === state.view ? "page" : null }, label)));
  const title = state.view === "user" ? state.user : VIEWS.find(([name]) => name === state.view)[1];
  document.title = [title, "Triptych"].filter(Boolean).join(" · ");
  choose(runs);
}

function render() {
  const now = resolve();
  const { state, runs, viewKey, itemKey } = now;
  frame(now);
  if (viewKey !== view.key) {
    const first = view.key === null;
    const focused = document.activeElement;
    view = next(view, viewKey);
    const gone = state.run.filter((name) => !loaded.some((run) => run.name === name));
    const [, , make] = VIEWS.find(([name]) => name === state.view);
    stage.replaceChildren(
      ...(gone.length ? [el("p", { class: "note", role: "alert" }, `Not loaded here: ${gone.join(", ")}.`)] : []),
      make({ state, runs, signal: view.stop.signal }));
    if (!first && !focused.isConnected) (document.getElementById(focused.id) ?? stage.querySelector("h1")).focus();
    else if (!first && focused === document.body) stage.querySelector("h1").focus();
  }
  if (itemKey !== over.key) {
    over = next(over, itemKey);
    if (itemKey) showItem(state, loaded.find((run) => run.name === state.of) ?? runs[0], over.stop.signal);
    else hideItem();
  }
}

/** Take note of a state that is shown already. */
function noted() {
  const now = resolve();
  frame(now);
  view.key = now.viewKey;
  over.key = now.itemKey;
}

/** Show which runs there are; one to three are shown side by side. */
function choose(runs) {
  const names = runs.map((run) => run.name);
  const full = names.length === MOST_RUNS;
  const focused = chooser.contains(document.activeElement) ? document.activeElement.value : null;
  chooser.hidden = loaded.length < 2;
  chooser.replaceChildren(el("span", { class: "label" }, "Compare"), ...loaded.map(({ name }) => {
    const pressed = names.includes(name);
    return el("button", {
      type: "button", class: "chip", value: name, "aria-pressed": String(pressed), disabled: full && !pressed,
      title: full && !pressed ? `At most ${MOST_RUNS} side by side` : null,
      click: () => {
        const left = pressed ? names.filter((one) => one !== name) : [...names, name];
        if (left.length) go({ run: left, ...closed });
      },
    }, name);
  }));
  if (focused !== null) [...chooser.children].find((chip) => chip.value === focused)?.focus();
}

await fill(main, shadowText, async () => {
  loaded = (await ask("/runs")).runs;
  addEventListener("hashchange", render);
  addEventListener("noted", noted);
  render();
  return stage;
});
