// What is shown lives in the address after the #, so that a view can be shared and the browser can go back.

const MANY = "run";

/** Read the state: view, user, run (a list), item, of, tab, text, heldout, metric. */
export function read() {
  const query = new URLSearchParams(location.hash.slice(1));
  const state = Object.fromEntries(query);
  const views = ["new", "runs"];
  return { ...state, view: views.includes(state.view) ? state.view : "user", [MANY]: query.getAll(MANY) };
}

/** Write a state as the end of an address. */
export function hash(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (name === "view" && value === "user") continue;
    for (const one of [value].flat()) if (one != null && one !== "") query.append(name, one);
  }
  return `#${query}`;
}

/** The address of the state now with some of it changed. */
export const changed = (changes) => hash({ ...read(), ...changes });

/** The same without an item on top. */
export const closed = { item: null, of: null, tab: null };

/** Go to a state. */
export function go(changes) {
  location.hash = changed(changes);
}

/** Note a state that is shown already. */
export function note(changes) {
  history.replaceState(null, "", changed(changes));
  dispatchEvent(new Event("noted"));
}
