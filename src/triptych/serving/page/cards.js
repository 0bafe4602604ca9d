// Items as cards, as lines, and as their own shadows while they are awaited.

import { bar, el, figure, scale } from "./dom.js";
import { picture } from "./service.js";
import { changed } from "./state.js";

/** What an item is called. */
export const nameOf = (item) => item.title || String(item.item_id);

/** The picture of an item, or its initials where there is none. */
export function tile(item) {
  const letters = nameOf(item).match(/[\p{L}\p{N}]+/gu) ?? ["?"];
  const blank = () => el("span", { class: "initials", "aria-hidden": "true" },
    letters.slice(0, 2).map((word) => [...word][0].toUpperCase()).join(""));
  const place = el("span", { class: "tile" });
  if (!item.picture) {
    place.append(blank());
    return place;
  }
  const image = el("img", { alt: "", loading: "lazy", decoding: "async", width: 160, height: 160 });
  const fail = () => place.replaceChildren(blank());
  image.addEventListener("error", fail);
  picture(item.picture).then((address) => { image.src = address; }, fail);
  place.append(image);
  return place;
}

/** A list of items.
 *
 * link: what the state becomes when an item is chosen, by item.
 * rank: whether places are numbered.
 * lines: one below the other rather than as a grid.
 * foot: a few more words by item. */
export function list(items, { link, rank = false, lines = false, foot, label }) {
  const fraction = scale(items.map((item) => item.score ?? 0));
  return el("ol", { class: lines ? "lines" : "cards", "aria-label": label },
    items.map((item, at) =>
      el("li", null,
        el("a", { class: "card", href: changed(link(item)), "data-item": item.item_id },
          tile(item),
          rank && el("span", { class: "rank" }, at + 1),
          el("span", { class: "words" },
            el("span", { class: "title" }, nameOf(item)),
            item.score != null && el("span", { class: "score" },
              bar(fraction(item.score)),
              el("span", null, el("span", { class: "unseen" }, "score "), figure(item.score))),
            el("span", { class: "foot" }, foot?.(item)))))));
}

/** The shadow of a list. */
export const shadow = (n, lines = false) => () =>
  el("div", { class: `${lines ? "lines" : "cards"} shadow`, "aria-hidden": "true" },
    Array.from({ length: n }, () =>
      el("div", null, el("div", { class: "card" }, el("span", { class: "tile" }), el("span", { class: "words" }, el("i"), el("i"))))));

/** The shadow of some text. */
export const shadowText = () => el("p", { class: "shadow text", "aria-hidden": "true" }, el("i"), el("i"));

/** Columns side by side, one for each run. */
export function columns(runs, content) {
  return el("div", { class: "columns" },
    runs.map((run) =>
      el("section", { class: "column", "data-run": run.name, "aria-label": run.name },
        runs.length > 1 && el("h3", null, run.name, run.model !== run.name && el("small", null, run.model)),
        content(run))));
}
