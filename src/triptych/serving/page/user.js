// A user: what they chose, and what each run offers them.

import { columns, list, shadow } from "./cards.js";
import { combobox } from "./combobox.js";
import { count, el, fill, say } from "./dom.js";
import { ask } from "./service.js";
import { changed, closed, go } from "./state.js";

const LENGTH = 10;
const MOST_HISTORY = 200;
const MOST_ASKED = 1000;
const SHOWN_HISTORY = 8;
const PROPOSED = 12;
const PARTS = { valid: "held out, validation", test: "held out, test", "left out": "left out" };

/** Make the view. */
export function userView({ state, runs, signal }) {
  const first = runs[0].name;
  const search = combobox({
    id: "user-search", label: "User", placeholder: "Type an id, or choose",
    find: async (query) => (await ask("/users", { query: query.slice(0, 200), limit: 20, run: first })).users,
    pick: (user) => go({ user, ...closed }),
  });
  return state.user ? ofUser(state, runs, search, signal) : welcome(first, search, signal);
}

function welcome(run, search, signal) {
  const some = el("div");
  fill(some, () => el("p", { class: "quiet" }, "…"), async () => {
    const { users } = await ask("/users", { limit: PROPOSED, run }, { signal });
    return el("ul", { class: "picks", "aria-label": "Some users" },
      users.map((user) => el("li", null, el("a", { class: "chip", href: changed({ user }) }, user))));
  }, signal);
  return el("div", { class: "welcome" },
    el("h1", { tabindex: -1 }, "What would they like?"),
    el("p", { class: "lead" }, "Choose a user to see their history, what the model offers them, and why."),
    search,
    el("p", { class: "quiet" }, "Or begin with one of these:"), some);
}

function ofUser(state, runs, search, signal) {
  const { user } = state;
  const chosen = el("div");
  fill(chosen, shadow(6, true), async () => {
    const { items } = await ask("/users/history", { user, limit: MOST_HISTORY + 1, run: runs[0].name }, { signal });
    return past(items.slice(0, MOST_HISTORY), items.length > MOST_HISTORY, runs[0]);
  }, signal);
  return el("div", null,
    el("div", { class: "title-row" }, el("h1", { tabindex: -1 }, user), search),
    el("div", { class: "user" },
      el("section", { class: "past", "aria-labelledby": "past-title" }, el("h2", { id: "past-title" }, "Chose"), chosen),
      offers(state, runs, signal)));
}

function past(items, cut, run) {
  if (!items.length) return el("p", { class: "empty" }, "Nothing yet.");
  const options = {
    lines: true, label: "What the user chose", foot: (item) => [when(item), PARTS[item.part] && el("span", { class: "badge" }, PARTS[item.part])],
    link: (item) => ({ item: item.item_id, of: run.name, tab: "behaviour" }),
  };
  const timed = items.some((item) => item.time != null);
  const all = cut ? `The ${timed ? "latest" : "first"} ${MOST_HISTORY} choices` : count(items.length, "choice");
  const shown = list(items.slice(0, SHOWN_HISTORY), options);
  const more = items.length > SHOWN_HISTORY && el("button", {
    type: "button", class: "button",
    click: () => {
      shown.append(...list(items.slice(SHOWN_HISTORY), options).children);
      more.remove();
      shown.children[SHOWN_HISTORY].firstChild.focus();
    },
  }, `Show ${items.length - SHOWN_HISTORY} more`);
  return [el("p", { class: "quiet" }, all, timed && ", the latest first"), shown, more];
}

/** The items that a run was not shown though the user chose them, each run by its own split. */
async function heldOut(user, run, signal) {
  const found = new Set();
  for (let offset = 0; ; offset += MOST_ASKED) {
    const query = { user, limit: MOST_ASKED, offset, run: run.name };
    const { items } = await ask("/users/history", query, { signal });
    for (const { item_id, part } of items) if (part === "valid" || part === "test") found.add(item_id);
    if (items.length < MOST_ASKED) return found;
  }
}

/** The day, where a time is one of seconds since 1970 that can be a day of our time. */
function when({ time }) {
  const plausible = time > 1e8 && time < 4.2e9;
  return plausible && el("span", null, new Date(1000 * time).toLocaleDateString(undefined, { dateStyle: "medium" }));
}

function offers(state, runs, signal) {
  const { user } = state;
  const compared = runs.length > 1;
  const lists = new Map();
  const listOf = (run) => {
    if (!lists.has(run)) {
      const query = { user, k: Math.min(LENGTH, run.items), run: run.name, exclude: state.heldout ? "train" : "all" };
      lists.set(run, ask("/recommend", query, { signal }).then(({ lists: [entry] }) => entry));
      lists.get(run).catch(() => lists.delete(run));
    }
    return lists.get(run);
  };

  async function column(run) {
    const entry = await listOf(run);
    const others = await Promise.all(runs.filter((other) => other !== run).map(async (other) => {
      const { items } = await listOf(other).catch(() => ({ items: [] }));
      return { name: other.name, places: new Map(items.map((item, at) => [item.item_id, at + 1])) };
    }));
    const held = state.heldout ? await heldOut(user, run, signal) : new Set();
    say(`${count(entry.items.length, "item")} for ${user} by ${run.name}`);
    const foot = (item) => [
      held.has(item.item_id) && el("span", { class: "badge" }, "chosen, held out"),
      others.filter(({ places }) => places.has(item.item_id)).map(({ name, places }) =>
        el("span", null, `#${places.get(item.item_id)} in ${name}`)),
      el("span", { class: "why" }, "Why?"),
    ];
    return [
      entry.basis === "popular" && el("p", { class: "note" }, el("span", { class: "badge" }, "popular"),
        ` ${user} has no choices to learn from, so these are the most popular items.`),
      entry.items.length
        ? list(entry.items, { rank: true, lines: compared, foot, label: `For ${user} by ${run.name}`, link: (item) => ({ item: item.item_id, of: run.name, tab: "why" }) })
        : el("p", { class: "empty" }, "There is nothing left to offer."),
    ];
  }

  return el("section", { class: "offers", "aria-labelledby": "offers-title" },
    el("div", { class: "section-head" },
      el("h2", { id: "offers-title" }, compared ? "Would like" : `Would like, by ${runs[0].name}`),
      el("label", { class: "switch" },
        el("input", { id: "heldout", type: "checkbox", checked: Boolean(state.heldout), change: (event) => go({ heldout: event.target.checked ? 1 : null }) }),
        "Let held-out choices in")),
    columns(runs, (run) => {
      const place = el("div", { class: "place" });
      fill(place, shadow(LENGTH, compared), () => column(run), signal);
      return place;
    }));
}
