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
let loaded = [];
let base = { key: null, stop: new AbortController() };
let top = { key: null, stop: new AbortController() };

/** Stop what an older state has asked for. */
function next(old, key) {
  old.stop.abort();
  return { key, stop: new AbortController() };
}

function render() {
  const state = read();
  const names = state.run.filter((name, at) => state.run.indexOf(name) === at && loaded.some((run) => run.name === name));
  const runs = (names.length ? names : [loaded[0].name]).slice(0, MOST_RUNS).map((name) => loaded.find((run) => run.name === name));
  const gone = state.run.filter((name) => !names.includes(name));

  document.getElementById("views").replaceChildren(...VIEWS.map(([name, label]) =>
    el("a", { href: changed({ view: name, ...closed }), "aria-current": name === state.view ? "page" : null }, label)));
  choose(runs);
  document.title = [state.view === "user" ? state.user : VIEWS.find(([name]) => name === state.view)[1], "Triptych"].filter(Boolean).join(" · ");

  const { view, user, heldout } = state;
  const key = hash({ view, run: runs.map((run) => run.name), ...(view === "user" ? { user, heldout } : {}) });
  if (key !== base.key) {
    base = next(base, key);
    const focused = main.contains(document.activeElement) && document.activeElement !== main;
    const [, , make] = VIEWS.find(([name]) => name === view);
    main.replaceChildren(
      ...(gone.length ? [el("p", { class: "note", role: "alert" }, `Not loaded here: ${gone.join(", ")}.`)] : []),
      make({ state, runs, signal: base.stop.signal }));
    scrollTo(0, 0);
    if (focused) main.querySelector("h1").focus();
  }

  const shown = state.item ? hash({ item: state.item, of: state.of, tab: state.tab, user }) : null;
  if (shown === top.key) return;
  top = next(top, shown);
  if (state.item) showItem(state, loaded.find((run) => run.name === state.of) ?? runs[0], top.stop.signal);
  else hideItem();
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
  queueMicrotask(render);
  return [];
});
