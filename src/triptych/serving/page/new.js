// An item that nobody has chosen yet: by its picture, its text, or both.

import { columns, list, shadow } from "./cards.js";
import { bar, el, figure, fill, say, scale } from "./dom.js";
import { ask } from "./service.js";
import { changed, closed, note } from "./state.js";

const LENGTH = 6;
const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MOST_MIB = 10;
const MOST_IN_ADDRESS = 2000;

/** The picture outlives the view: it cannot be in the address. */
let chosen = null;

/** Make the view. */
export function newView({ state, runs, signal }) {
  const takes = new Set(runs.flatMap((run) => run.new_items));
  const results = el("div", { class: "results" });
  const said = el("p", { class: "trouble", role: "alert", hidden: true });
  const text = el("textarea", {
    id: "new-text", rows: 6, maxlength: 20000, placeholder: "Table lamp in felt and wool, for quiet evenings",
    keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); },
  });
  text.value = state.text ?? "";
  const file = el("input", {
    id: "new-picture", type: "file", class: "unseen", accept: KINDS.join(), "aria-label": "Picture",
    change: () => take(file.files[0]),
  });
  const drop = el("label", {
    class: "drop", for: "new-picture",
    dragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
    dragleave: () => drop.classList.remove("over"),
    drop: (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      take(event.dataTransfer.files[0]);
    },
  });
  const clear = el("button", { type: "button", class: "button small", click: () => { take(null); file.focus(); } }, "Remove picture");

  function complain(words) {
    said.textContent = words;
    said.hidden = !words;
  }

  function take(picture) {
    if (picture === undefined) return;
    complain("");
    file.value = "";
    if (picture && !KINDS.includes(picture.type)) return complain("Only PNG, JPEG and WebP pictures can be read.");
    if (picture && picture.size > MOST_MIB << 20) return complain(`The picture is larger than ${MOST_MIB} MiB.`);
    if (chosen) URL.revokeObjectURL(chosen.address);
    chosen = picture && { picture, address: URL.createObjectURL(picture) };
    preview();
  }

  function preview() {
    clear.hidden = !chosen;
    drop.replaceChildren(...(chosen
      ? [el("img", { src: chosen.address, alt: `Chosen picture: ${chosen.picture.name}` })]
      : [el("span", null, el("b", null, "Drop a picture here"), el("span", { class: "quiet" }, "or press to choose one: PNG, JPEG, WebP"))]));
  }

  const form = el("form", { class: "new", submit: (event) => { event.preventDefault(); look(); } },
    takes.has("picture") && el("div", { class: "picture-field" }, el("span", { class: "label", "aria-hidden": "true" }, "Picture"), file, drop, clear),
    takes.has("text") && el("div", { class: "text-field" }, el("label", { for: "new-text" }, "Text"), text),
    el("div", { class: "buttons" }, el("button", { type: "submit", class: "button main" }, "Find its place"), said));

  function look() {
    const words = takes.has("text") ? text.value.trim() : "";
    const picture = takes.has("picture") ? chosen?.picture : null;
    complain(words || picture ? "" : "Give a picture, a text, or both.");
    if (!words && !picture) return;
    note({ text: words.length <= MOST_IN_ADDRESS ? words : null, ...closed });
    results.replaceChildren(columns(runs, (run) => {
      const place = el("div", { class: "place" });
      fill(place, shadow(LENGTH), () => stand(run, words, picture), signal);
      return place;
    }));
  }

  async function stand(run, words, picture) {
    const body = new FormData();
    if (words) body.append("text", words);
    if (picture) body.append("picture", picture);
    body.append("k", Math.min(LENGTH, run.items, run.users));
    body.append("run", run.name);
    const { basis, similar, audience } = await ask("/items/new", {}, { body, signal });
    say(`${similar.length} similar items by ${run.name}`);
    const fraction = scale(audience.map((one) => one.score));
    return [
      el("p", { class: "quiet how" }, basis),
      el("h3", null, "Similar items"),
      list(similar, {
        rank: true, lines: runs.length > 1, label: `Similar items by ${run.name}`,
        link: (item) => ({ item: item.item_id, of: run.name, tab: "behaviour", user: null }),
      }),
      el("h3", null, "Who would like it"),
      el("ol", { class: "audience", "aria-label": `Users by ${run.name}` }, audience.map((one) =>
        el("li", null, el("a", { href: changed({ view: null, user: one.user_id, text: null, ...closed }) },
          el("span", { class: "id" }, one.user_id), bar(fraction(one.score)), el("span", { class: "score" }, figure(one.score)))))),
    ];
  }

  preview();
  if (state.text || chosen) look();
  return el("div", null,
    el("h1", { tabindex: -1 }, "A new item"),
    el("p", { class: "lead" }, takes.size
      ? "Nobody has chosen it yet. Its picture and its text say what it is like, and who would like it."
      : "These runs take no new items here."),
    takes.size
      ? form
      : el("p", { class: "empty" }, "That needs the data set, with features whose encoders are known: start the service with --data DATA."),
    results);
}
