// A field that proposes while one types: the combobox pattern of the WAI-ARIA practices.

import { el, say } from "./dom.js";

const PAUSE_MS = 120;

/** Make the field.
 *
 * find: gives the proposals for some letters; may be slow, may fail.
 * pick: is called with a proposal, or with what was typed if there is none. */
export function combobox({ id, label, placeholder, find, pick }) {
  let options = [];
  let active = -1;
  let asked = 0;
  let timer;

  const listbox = el("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const input = el("input", {
    id, type: "text", role: "combobox", placeholder, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    enterkeyhint: "go", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": listbox.id,
    input: () => { clearTimeout(timer); timer = setTimeout(propose, PAUSE_MS); },
    focus: () => propose(),
    blur: () => close(),
    keydown: (event) => keys[event.key]?.(event),
  });

  async function propose() {
    clearTimeout(timer);
    const turn = ++asked;
    const found = await find(input.value.trim()).catch(() => []);
    if (turn !== asked || document.activeElement !== input) return;
    options = found;
    listbox.replaceChildren(...options.map((option, at) =>
      el("li", {
        id: `${id}-${at}`, role: "option", "aria-selected": "false",
        mousedown: (event) => event.preventDefault(), // the field keeps the focus
        click: () => choose(options[at]),
      }, String(option))));
    if (!options.length) listbox.append(el("li", { class: "none", role: "option", "aria-disabled": "true" }, "Nothing has these letters"));
    say(options.length ? `${options.length} proposals` : "No proposals");
    listbox.hidden = false;
    input.setAttribute("aria-expanded", "true");
    light(-1);
  }

  function light(at) {
    active = at;
    [...listbox.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === at)));
    if (at < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", `${id}-${at}`);
    listbox.children[at].scrollIntoView({ block: "nearest" });
  }

  function close() {
    clearTimeout(timer);
    asked++;
    listbox.hidden = true;
    input.setAttribute("aria-expanded", "false");
    light(-1);
  }

  function choose(option) {
    input.value = String(option);
    input.blur(); // closes the proposals; what is shown next takes the focus
    pick(option);
  }

  async function enter() {
    const typed = input.value.trim();
    if (active >= 0) return choose(options[active]);
    if (!typed) return;
    const found = await find(typed).catch(() => []);
    choose(found.find((option) => String(option) === typed) ?? found[0] ?? typed);
  }

  const step = (by) => (event) => {
    event.preventDefault();
    if (listbox.hidden) propose();
    else if (options.length) light((active + by + (active < 0 && by < 0 ? 1 : 0) + options.length) % options.length);
  };
  const keys = {
    ArrowDown: step(1),
    ArrowUp: step(-1),
    Enter: (event) => { event.preventDefault(); enter(); },
    Escape: () => { if (listbox.hidden) input.value = ""; else close(); },
  };
  return el("div", { class: "combobox" }, el("label", { for: id }, label), el("div", { class: "field" }, input, listbox));
}
