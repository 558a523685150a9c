// Lists the rows of the JSON block, a few at a time. Every text from outside becomes a text node, never markup.
"use strict";

const contents = JSON.parse(document.getElementById("contents").textContent);
const { primary, names, directions } = contents.about;
const AT_A_TIME = 25;
const LARGEST_WORD_TABLE = 4_000_000; // cells; beyond, a middle that differs is marked as a whole

const byId = (id) => document.getElementById(id);
const controls = { search: byId("search"), slice: byId("slice"), metric: byId("metric"), outcome: byId("outcome") };
let matching = [];
let listed = 0;

// --- elements -------------------------------------------------------------------------------------------------------

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// --- what a row says ------------------------------------------------------------------------------------------------

const isNumber = (value) => typeof value === "number" || typeof value === "boolean";

function changeOf(row, metric) {
  if (metric === primary) return row.change;
  const score = row.scores[metric];
  return score && isNumber(score.a) && isNumber(score.b) ? score.b - score.a : null;
}

function hasFailed(row, metric) {
  const score = row.scores[metric];
  return Boolean(row.error_a || row.error_b || !score || !isNumber(score.a) || !isNumber(score.b));
}

function gainOf(row, metric) {
  const change = changeOf(row, metric) ?? 0;
  return directions[metric] === false ? -change : change;
}

const TESTS = {
  all: () => true,
  worse: (row, metric) => gainOf(row, metric) < 0,
  better: (row, metric) => gainOf(row, metric) > 0,
  same: (row, metric) => changeOf(row, metric) === 0,
  failed: hasFailed,
};

function outcomeWords(metric) {
  const neutral = (directions[metric] ?? null) === null;
  return {
    all: "are in the set", worse: neutral ? "went down" : "got worse", better: neutral ? "went up" : "got better",
    same: "stayed the same", failed: "have no answer or score",
  };
}

const textsOf = (value) =>
  value === null || value === undefined ? "" : typeof value === "object" ? Object.values(value).map(textsOf).join("\n") : String(value);
const haystacks = new Map();

function haystack(row) {
  if (!haystacks.has(row)) {
    const parts = [row.id, row.inputs, row.expectations, row.tags, row.contexts, row.output_a, row.output_b, row.error_a, row.error_b];
    haystacks.set(row, textsOf(parts).toLowerCase());
  }
  return haystacks.get(row);
}

// --- differences of two answers, word by word -----------------------------------------------------------------------

const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;
const wordsOf = (text) => (segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : text.split(/(\s+)/));

// The pieces of both texts as [text, differs], by the longest common subsequence of their words.
function differences(textA, textB) {
  const a = wordsOf(textA), b = wordsOf(textB);
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start++;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const keptA = new Set(), keptB = new Set();
  markCommon(a, b, start, endA, endB, keptA, keptB);
  const differsA = (i) => i >= start && i < endA && !keptA.has(i);
  const differsB = (i) => i >= start && i < endB && !keptB.has(i);
  return [pieces(a, differsA), pieces(b, differsB)];
}

function markCommon(a, b, start, endA, endB, keptA, keptB) {
  const rows = endA - start, columns = endB - start, width = columns + 1;
  if (rows * columns === 0 || rows * columns > LARGEST_WORD_TABLE) return;
  const longest = new Uint32Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--)
    for (let j = columns - 1; j >= 0; j--)
      longest[i * width + j] = a[start + i] === b[start + j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (a[start + i] === b[start + j]) { keptA.add(start + i++); keptB.add(start + j++); }
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
}

// Words that differ one after the other are one piece, with the space between them.
function pieces(words, differs) {
  const found = [];
  words.forEach((word, i) => {
    const marked = differs(i) || (!word.trim() && differs(i - 1) && differs(i + 1));
    const last = found.at(-1);
    if (last && last[1] === marked) last[0] += word;
    else found.push([word, marked]);
  });
  return found;
}

// --- one row --------------------------------------------------------------------------------------------------------

const shownNumber = (value) => value.toLocaleString("en", { maximumFractionDigits: 3 }).replace("-", "−");

function shownScore(value) {
  if (value === null || value === undefined) return "no score";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? shownNumber(value) : String(value);
}

function shownChange(change) {
  return (change > 0 ? "+" : "") + shownNumber(change);
}

function badge(row, metric) {
  const change = changeOf(row, metric), gained = gainOf(row, metric);
  if (change === null) return make("span", { class: "badge undecided" }, "not compared");
  if (change === 0) return make("span", { class: "badge undecided" }, "○ same");
  const neutral = (directions[metric] ?? null) === null;
  const kind = neutral ? "changed" : gained > 0 ? "better" : "worse";
  const word = neutral ? "◆ changed" : gained > 0 ? "▲ better" : "▼ worse";
  return make("span", { class: "badge " + kind }, `${word} ${shownChange(change)}`);
}

function labelled(label, text) {
  return make("div", { class: "given" }, make("span", { class: "label" }, label), make("div", { class: "text", dir: "auto" }, text));
}

function inputs(row) {
  return Object.entries(row.inputs).flatMap(([name, value]) =>
    name === "messages" && Array.isArray(value)
      ? value.map((turn) => labelled(String(turn.role), String(turn.content)))
      : [labelled(name, typeof value === "string" ? value : JSON.stringify(value, null, 1))]);
}

const scalar = (value) => typeof value === "string" || isNumber(value);

// The values as a person would list them: texts as they are, several with commas, each once.
function expectations(row) {
  const listed = new Map();
  for (const [name, value] of Object.entries(row.expectations)) {
    if (value === null) continue;
    const plain = Array.isArray(value) && value.every(scalar);
    const text = plain ? value.join(", ") : scalar(value) ? String(value) : JSON.stringify(value);
    if (!listed.has(text)) listed.set(text, name.replaceAll("_", " "));
  }
  return Array.from(listed, ([text, name]) => labelled(name, text));
}

function answer(side, parts, error) {
  const tag = side === "a" ? "del" : "ins";
  const body = error
    ? [make("p", { class: "worse" }, `✕ no answer: ${error}`)]
    : parts.map(([text, differs]) => (differs ? make(tag, {}, text) : text));
  if (!error && !parts.length) body.push(make("em", {}, "empty"));
  const title = make("h4", {}, make("b", {}, side.toUpperCase()), " ", make("bdi", {}, names[side]));
  return make("div", { class: "answer" }, title, make("div", { class: "text", dir: "auto", tabindex: "0" }, ...body));
}

function answers(row) {
  if (!row.error_a && !row.error_b && row.output_a === row.output_b) {
    const body = row.output_a || make("em", {}, "empty");
    const title = make("h4", {}, make("b", {}, "A and B"), " gave the same answer");
    return make("div", { class: "answers one" },
      make("div", { class: "answer" }, title, make("div", { class: "text", dir: "auto", tabindex: "0" }, body)));
  }
  const whole = (text) => (text ? [[text, false]] : []);
  const [a, b] = row.error_a || row.error_b ? [whole(row.output_a), whole(row.output_b)] : differences(row.output_a, row.output_b);
  return make("div", { class: "answers" }, answer("a", a, row.error_a), answer("b", b, row.error_b));
}

function scoreTable(row) {
  const lines = Object.entries(row.scores).map(([name, score]) => {
    const said = [["A", score.rationale_a], ["B", score.rationale_b]].filter(([, text]) => text);
    return make("tr", {},
      make("th", { scope: "row" }, name),
      make("td", { class: "figure" }, shownScore(score.a)),
      make("td", { class: "figure" }, shownScore(score.b)),
      make("td", { class: "wide" }, said.map(([side, text]) => `${side}: ${text}`).join("\n")));
  });
  const head = [["metric", ""], ["A", "figure"], ["B", "figure"], ["why", ""]].map(([text, kind]) =>
    make("th", { scope: "col", class: kind }, text));
  return make("table", {},
    make("caption", {}, "Scores of this row"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines));
}

function moreOf(row) {
  const more = make("details", {}, make("summary", {}, row.contexts?.length ? "Scores, reasons and contexts" : "Scores and reasons"));
  more.addEventListener("toggle", () => {
    if (more.childElementCount > 1) return;
    more.append(make("div", { class: "scroll" }, scoreTable(row)));
    (row.contexts ?? []).forEach((text, i) => more.append(labelled(`context ${i + 1}`, text)));
  });
  return more;
}

function article(row) {
  const metric = controls.metric.value, score = row.scores[metric];
  const tags = Object.entries(row.tags).map(([tag, value]) => make("span", { class: "tag" }, `${tag}: ${value}`));
  const scores = score ? make("span", { class: "scores" }, `${metric}: ${shownScore(score.a)} → ${shownScore(score.b)}`) : null;
  const head = make("div", { class: "head" }, make("h3", {}, row.id), badge(row, metric), scores, ...tags);
  return make("article", { class: "row" }, head, ...inputs(row), ...expectations(row), answers(row), moreOf(row));
}

// --- the list -------------------------------------------------------------------------------------------------------

// Losses first, the greatest before all; then gains, the greatest first; then the rest, failures first.
function byImportance(metric) {
  const group = (row) => { const gained = gainOf(row, metric); return gained < 0 ? 0 : gained > 0 ? 1 : hasFailed(row, metric) ? 2 : 3; };
  return (x, y) => group(x) - group(y) || Math.abs(gainOf(y, metric)) - Math.abs(gainOf(x, metric));
}

function choose() {
  const metric = controls.metric.value, words = controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const slice = controls.slice.value;
  const inSlice = (row) => !slice || Object.entries(row.tags).some(([tag, value]) => `${tag}=${value}` === slice);
  const candidates = contents.rows.filter((row) => inSlice(row) && words.every((word) => haystack(row).includes(word)));
  const labels = outcomeWords(metric);
  for (const option of controls.outcome.options) {
    const fitting = candidates.filter((row) => TESTS[option.value](row, metric)).length;
    option.textContent = `${labels[option.value]} (${fitting.toLocaleString("en")})`;
  }
  matching = candidates.filter((row) => TESTS[controls.outcome.value](row, metric)).sort(byImportance(metric));
  listed = 0;
  byId("list").replaceChildren();
  listMore();
}

function listMore() {
  const next = matching.slice(listed, listed + AT_A_TIME);
  const first = next.map(article).map((made) => byId("list").appendChild(made))[0];
  listed += next.length;
  const left = matching.length - listed;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(left, AT_A_TIME)} more`;
  const amount = (rows) => rows.toLocaleString("en");
  byId("shown").textContent = matching.length
    ? `${amount(matching.length)} of ${amount(contents.rows.length)} rows match; the first ${amount(listed)} are listed.`
    : "No row matches.";
  return first;
}

byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", choose);
byId("more").addEventListener("click", () => {
  const first = listMore();
  if (first) { first.tabIndex = -1; first.focus(); } // so that the keyboard goes on where the new rows begin
});
choose();
