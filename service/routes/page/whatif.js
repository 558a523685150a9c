// What if: a row of a tabular model, changed as a person likes, and what one or two versions say of it. Nothing is
// asked before a person does something, since each prediction is recorded. whatif_answers.js shows the answers.
"use strict";

const WAIT_MS = 400; // from the last change of an input to the question
const POINTS = 21; // at which a number is varied

let models = [];
let described = null; // GET /v1/predict/…/schema of the chosen version
let isAsking = false;
let hasChanged = false; // while it was asked
let timer = 0;

// --- What can be asked ---------------------------------------------------------------------------------------------

/** Fills the choices from the models. */
function offerModels(found) {
  models = found;
  $("what-section").hidden = models.length === 0;
  if (models.length === 0) return;
  options($("what-model"), models.map(({ model }) => [model, model]), models[0].model, true);
  offerVersions(true);
}

function offerVersions(keep) {
  const { versions } = models.find(({ model }) => model === $("what-model").value);
  const holding = (...aliases) => aliases.map((alias) => versions.find((each) => each.aliases.includes(alias))).find(Boolean)?.version;
  const items = versions.map((each) => [each.version, withAliases(each.version, each.aliases)]);
  options($("what-version"), items, holding("champion"), keep);
  options($("what-beside"), [["", "no other"], ...items], holding("challenger", "previous"), keep);
  describe();
}

async function describe() {
  const version = $("what-version").value;
  if (described?.model === version) return;
  const before = described;
  try {
    const response = await ask(`/v1/predict/${encodeURIComponent(version)}/schema`);
    if (!response.ok) throw new Error(await problemOf(response));
    const found = await response.json();
    if ($("what-version").value !== version) return; // another one was chosen in the meantime
    described = found;
    sayWhat("");
  } catch (error) {
    sayWhat(error.message);
    return;
  }
  if (JSON.stringify(before?.row) === JSON.stringify(described.row)) {
    if (!$("what-said").hidden) predict();
    return;
  }
  for (const part of ["what-said", "what-varied"]) $(part).hidden = true;
  const columns = Object.entries(described.row.properties);
  $("what-inputs").replaceChildren(...columns.map(([name, column], place) => field(name, column, described.example.rows[0][name], place)));
  const variable = columns.filter(([, column]) => choicesOf(column) || isNumber(column)).map(([name]) => [name, name]);
  options($("what-vary"), [["", "nothing"], ...variable], variable[0]?.[0]);
  offerRange();
}

const kinds = (column) => [column.type ?? []].flat();
const isNumber = (column) => kinds(column).some((kind) => kind === "number" || kind === "integer");

/** The values that a column may hold, where they can be counted. */
function choicesOf(column) {
  if (column.enum) return column.enum;
  return kinds(column).includes("boolean") ? [true, false, ...(kinds(column).includes("null") ? [null] : [])] : null;
}

const valueText = (value) => (value === null ? "empty" : String(value));

function field(name, column, value, place) {
  const choices = choicesOf(column);
  const attributes = { id: `what-input-${place}`, "data-column": name };
  const input = choices ? make("select", "", attributes) : make("input", "", { ...attributes, value: value ?? "", autocomplete: "off" });
  if (choices) {
    for (const each of choices) {
      input.append(make("option", valueText(each), { value: JSON.stringify(each), ...(each === value ? { selected: "" } : {}) }));
    }
  } else if (isNumber(column)) {
    input.type = "number";
    input.step = kinds(column).includes("integer") ? "1" : "any";
  }
  const around = make("div", "", { class: "field" });
  around.append(make("label", kinds(column).includes("null") ? `${name} (may be empty)` : name, { for: input.id }), input);
  return around;
}

/** The row of the form. An input that is empty is null, of which the gateway says whether the model takes it. */
function currentRow() {
  const read = (input) => {
    const column = described.row.properties[input.dataset.column];
    if (choicesOf(column)) return JSON.parse(input.value);
    if (isNumber(column)) return input.value === "" ? null : Number(input.value);
    return input.value === "" && kinds(column).includes("null") ? null : input.value;
  };
  return Object.fromEntries([...document.querySelectorAll("[data-column]")].map((input) => [input.dataset.column, read(input)]));
}

const variedColumn = () => described.row.properties[$("what-vary").value];

/** Begins around the present value: nobody knows the values that a column may have. */
function offerRange() {
  const column = variedColumn();
  const hasRange = Boolean(column) && isNumber(column);
  $("what-range").hidden = !hasRange;
  $("what-values").open = !hasRange;
  if (!hasRange) return;
  const value = currentRow()[$("what-vary").value] ?? 0;
  const whole = kinds(column).includes("integer");
  const half = whole ? Math.max(5, Math.round(Math.abs(value) / 2)) : Math.abs(value) / 2 || 1;
  $("what-from").value = Number((value < 0 ? value - half : Math.max(0, value - half)).toPrecision(6));
  $("what-to").value = Number((value + half).toPrecision(6));
}

function variedValues() {
  const column = variedColumn();
  if (!column) return [];
  if (!isNumber(column)) return choicesOf(column);
  const [from, to] = [Number($("what-from").value), Number($("what-to").value)].sort((a, b) => a - b);
  const values = Array.from({ length: POINTS }, (_, place) => from + ((to - from) * place) / (POINTS - 1));
  return [...new Set(values.map((value) => (kinds(column).includes("integer") ? Math.round(value) : Number(value.toPrecision(6)))))];
}

// --- Asking --------------------------------------------------------------------------------------------------------

function sayWhat(problem) {
  $("what-status").textContent = problem;
}

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(predict, WAIT_MS);
}

/** One request for each version: the row of the form, the one it began with, and those with one column varied. */
async function predict() {
  clearTimeout(timer);
  if (described?.model !== $("what-version").value) {
    describe(); // it could not be read before
    return;
  }
  hasChanged = isAsking;
  if (isAsking) return;
  isAsking = true;
  $("what-said").setAttribute("aria-busy", "true");
  const [of, varied, values, row] = [described, $("what-vary").value, variedValues(), currentRow()];
  const rows = [row, of.example.rows[0], ...values.map((value) => ({ ...row, [varied]: value }))];
  const chosen = ["what-version", "what-beside"].map((id) => $(id).selectedOptions[0]).filter((option) => option?.value);
  const titles = new Map(chosen.map((option) => [option.value, option.textContent]));
  const replies = await Promise.all([...titles].map(([version, title]) => score(version, title, rows)));
  isAsking = false;
  $("what-said").setAttribute("aria-busy", "false");
  if (of === described) {
    $("what-said").hidden = false;
    const isFirst = JSON.stringify(row) === JSON.stringify(rows[1]);
    $("what-said").replaceChildren(...replies.map((reply) => saidCard(reply, of.output, isFirst)));
    const isNumeric = values.length > 0 && isNumber(of.row.properties[varied]);
    showVaried(replies.filter((reply) => !reply.problem), { varied, values, now: row[varied], isNumeric, output: of.output });
  }
  if (hasChanged) predict();
}

/** What a version says of the rows. Never throws: what went wrong is `problem`. */
async function score(version, title, rows) {
  try {
    const response = await post(`/v1/predict/${encodeURIComponent(version)}`, { rows });
    return response.ok ? { title, ...(await response.json()) } : { title, problem: await problemOf(response) };
  } catch (error) {
    return { title, problem: error.message };
  }
}

// --- What a person does --------------------------------------------------------------------------------------------

$("what-model").addEventListener("change", () => offerVersions(false));
$("what-version").addEventListener("change", describe);
$("what-beside").addEventListener("change", () => $("what-said").hidden || predict());
$("what-inputs").addEventListener("input", askSoon);
$("what-range").addEventListener("input", askSoon);
$("what-form").addEventListener("reset", askSoon);
$("what-vary").addEventListener("change", () => {
  offerRange();
  predict();
});
$("what-form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
