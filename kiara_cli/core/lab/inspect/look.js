"use strict";
const place = document.getElementById("look");
const make = (tag, text = "", attributes = {}) => {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const percent = (share) => (share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
let head = LOOK.copying || "all";
let query = LOOK.explained - 1;
let held = false;

// Row `query` of a head's pattern: shares of attention, kept as the square root in 4096 steps, two characters each.
function shares(name) {
  const start = query * (query + 1);
  const at = (place) => LOOK.patterns[name].charCodeAt(start + place) - 48;
  return Array.from({ length: query + 1 }, (_, key) => ((64 * at(2 * key) + at(2 * key + 1)) / 4095) ** 2);
}
function attention() {
  if (head !== "all") return shares(head);
  const every = Object.keys(LOOK.patterns).map(shares);
  return every[0].map((_, key) => every.reduce((sum, row) => sum + row[key], 0) / every.length);
}
const heads = make("div", "", { class: "heads", role: "group", "aria-label": "Heads" });
const words = make("p", "", { class: "words" });
const told = make("div", "", { class: "told", "aria-live": "polite" });
const tokens = LOOK.tokens.map((text, index) => {
  const node = make("span", text, { tabindex: "0", role: "button" });
  if (index >= LOOK.start) node.className = "answer";
  node.addEventListener("mouseenter", () => { if (!held) show(index); });
  node.addEventListener("focus", () => { show(index); });
  node.addEventListener("click", () => { held = !held || query !== index; show(index); });
  words.append(node);
  return node;
});
for (const name of ["all", ...Object.keys(LOOK.patterns)]) {
  if (name.endsWith(".0")) heads.append(make("br"));
  const button = make("button", name, { type: "button" });
  button.addEventListener("click", () => { head = name; show(query); });
  heads.append(button);
}
function show(index) {
  query = index;
  const weights = attention();
  tokens.forEach((node, key) => {
    node.style.backgroundColor = key <= query ? `rgb(0 114 178 / ${(0.85 * Math.sqrt(weights[key])).toFixed(3)})` : "transparent";
    node.classList.toggle("query", key === query);
  });
  for (const button of heads.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.textContent === head));
  const most = weights.map((share, key) => [share, key]).sort((one, other) => other[0] - one[0]).slice(0, 6);
  const whose = head === "all" ? "All heads together look" : `Head ${head} looks`;
  const lines = [make("p", `${whose} from ${query} ${LOOK.tokens[query]} at: ${most.map(([share, key]) => `${LOOK.tokens[key]} (${key}) ${percent(share)}`).join(", ")}`)];
  const next = LOOK.next[query];
  if (next) {
    lines.push(make("p", `Next comes ${LOOK.tokens[query + 1]}: ${percent(next.p)}, rank ${next.rank}, ${next.bits.toFixed(2)} bits. Likeliest: ${next.top.map(([text, share]) => `${text} ${percent(share)}`).join(", ")}`));
  }
  if (LOOK.lens) lines.push(make("p", `After each layer the output would be: ${LOOK.lens.map(([depth, row]) => `${depth} ${row[query]}`).join(" → ")}`));
  told.replaceChildren(...lines);
}
place.replaceChildren(heads, words, told);
show(query);
