// An item on top of a view: why a user is offered it, and what is like it.

import { list, nameOf, shadow, shadowText, tile } from "./cards.js";
import { shares } from "./charts.js";
import { el, figure, fill, say, wordFor } from "./dom.js";
import { ask } from "./service.js";
import { closed, go, note, read } from "./state.js";

const LENGTH = 12;

const sheet = document.getElementById("item");
sheet.addEventListener("close", () => { if (read().item) go(closed); });
sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });

export function hideItem() {
  if (sheet.open) sheet.close();
}

/** Show the item that the state names. */
export function showItem(state, run, signal) {
  const tabs = [
    ...(state.user ? [{ name: "why", label: "Why" }] : []),
    ...["behaviour", ...run.modalities].map((by, at) => ({
      name: by, label: `${at === 0 ? "Alike by" : "by"} ${wordFor(by)}`,
    })),
  ];
  const head = el("div", { class: "head" });
  const panel = el("div", { class: "panel", id: "item-panel", role: "tabpanel", tabindex: 0 });
  const buttons = tabs.map(({ name, label }) =>
    el("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "item-panel",
      click: () => { note({ tab: name }); choose(name); },
    }, label));

  function choose(name) {
    buttons.forEach((button, at) => {
      const chosen = tabs[at].name === name;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    const shown = name === "why"
      ? [shadowText, () => why(state, run, signal)]
      : [shadow(6), () => alike(state, run, name, signal)];
    fill(panel, ...shown, signal);
  }

  function move(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length];
    next.focus();
    next.click();
  }

  sheet.replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "Close", click: () => sheet.close() }, "×"),
    head,
    el("div", { class: "tabs", role: "tablist", "aria-label": "About this item", keydown: move }, buttons),
    panel);
  title({ item_id: state.item, title: null, picture: null });
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
  sheet.querySelector("h2").focus();
  choose(tabs.some(({ name }) => name === state.tab) ? state.tab : tabs[0].name);
  find(state.item, run, signal).then((item) => { if (item && !signal.aborted) title(item); }, () => {}); // the panel says what is wrong

  function title(item) {
    const focused = head.contains(document.activeElement);
    head.replaceChildren(tile(item), el("div", null,
      el("h2", { id: "item-title", tabindex: -1 }, nameOf(item)),
      el("p", { class: "quiet" }, el("code", null, item.item_id)),
      el("p", { class: "quiet" }, state.user ? `for ${state.user} by ${run.name}` : `as ${run.name} knows it`)));
    if (focused) head.querySelector("h2").focus();
  }
}

async function find(id, run, signal) {
  const { items } = await ask("/items", { query: id.slice(0, 200), limit: 20, run: run.name }, { signal });
  return items.find((item) => String(item.item_id) === id);
}

async function why({ user, item }, run, signal) {
  const told = await ask("/explain", { user, item, run: run.name }, { signal });
  const apart = Object.keys(told.shares).length > 0;
  say(`Explained: score ${figure(told.score)}`);
  return [
    el("p", { class: "total" }, el("b", null, figure(told.score)), " score",
      apart && el("span", { class: "badge" }, told.exact ? "exact" : "approximate")),
    apart && shares(told),
    el("p", { class: "quiet how" }, told.how),
    el("h3", null, `What ${user} chose that is nearest`),
    told.because.length
      ? list(told.because, { lines: true, label: "The user's own items", link: (one) => ({ item: one.item_id, of: run.name, tab: "behaviour" }) })
      : el("p", { class: "empty" }, "None of this user's choices was there to learn from."),
  ];
}

async function alike({ item }, run, by, signal) {
  const k = Math.min(LENGTH, run.items - 1);
  const { items } = await ask("/similar", { item, by, k, run: run.name }, { signal });
  say(`${items.length} similar items`);
  return [
    el("p", { class: "quiet how" }, by === "behaviour"
      ? `Nearest in what ${run.name} has learned.`
      : `Nearest by the ${wordFor(by)} alone, whoever chose them.`),
    items.length
      ? list(items, { rank: true, label: "Similar items", link: (one) => ({ item: one.item_id, of: run.name, tab: by }) })
      : el("p", { class: "empty" }, "Nothing is like it."),
  ];
}
