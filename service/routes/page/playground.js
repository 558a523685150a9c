// Two releases side by side: a blind comparison, and a vote.
"use strict";

const SIDES = ["left", "right"];

let apps = [];
let round = null; // the question under way: { left: {...}, right: {...}, done, abort }
const tally = new Map(); // "a|b" → { a, b, wins: {a: n, b: n}, ties }

/** Fills the choices from the apps. */
function offer(found) {
  apps = found.filter((app) => app.releases.length > 1);
  $("play-empty").hidden = apps.length > 0;
  $("play-form").hidden = apps.length === 0;
  options($("play-app"), apps.map((app) => [app.app, app.app]), apps[0]?.app, true);
  offerReleases(true);
}

/** keep: what a person has chosen, while it still exists; else `chosen`. */
function options(select, items, chosen, keep) {
  const before = keep && select.options.length && items.some(([value]) => value === select.value) ? select.value : chosen;
  select.replaceChildren(...items.map(([value, text]) => make("option", text, { value })));
  if (items.some(([value]) => value === before)) select.value = before;
}

const chosenApp = () => apps.find((app) => app.app === $("play-app").value);

function offerReleases(keep) {
  const app = chosenApp();
  if (!app) return;
  const holding = (alias) => app.releases.find((release) => release.aliases.includes(alias));
  const first = holding("champion") || app.releases[0];
  const second =
    ["challenger", "previous"].map(holding).find((release) => release && release !== first) ||
    app.releases.find((release) => release !== first);
  const items = app.releases.map((release) => {
    return [release.release, `${withAliases(release.release, release.aliases)} · ${release.prompt} · ${release.model}`];
  });
  options($("play-first"), items, first.release, keep);
  options($("play-second"), items, second.release, keep);
  offerVariables();
}

const chosenRelease = (select) => chosenApp().releases.find((release) => release.release === select.value);
const chosenPair = () => [chosenRelease($("play-first")), chosenRelease($("play-second"))];

function offerVariables() {
  const before = Object.fromEntries([...document.querySelectorAll("[data-variable]")].map((i) => [i.dataset.variable, i.value]));
  const names = [...new Set(chosenPair().flatMap((release) => release.variables))].sort();
  $("play-variables").replaceChildren(
    ...names.map((name) => {
      const field = make("div", "", { class: "field" });
      const input = make("input", "", { id: `variable-${name}`, "data-variable": name, required: "" });
      input.value = before[name] || "";
      field.append(make("label", name, { for: input.id }), input);
      return field;
    }),
  );
}

$("play-app").addEventListener("change", () => offerReleases(false));
$("play-first").addEventListener("change", offerVariables);
$("play-second").addEventListener("change", offerVariables);

$("play-question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("play-form").requestSubmit();
  }
});

function say(text, isBad = false) {
  $("play-status").textContent = text;
  $("play-status").classList.toggle("bad", isBad);
}

$("play-stop").addEventListener("click", () => round?.abort.abort());

$("play-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const pair = chosenPair();
  if (pair[0] === pair[1]) {
    say("Choose two different releases.", true);
    return;
  }
  if (crypto.getRandomValues(new Uint8Array(1))[0] & 1) pair.reverse();
  round = { abort: new AbortController(), question: $("play-question").value };
  SIDES.forEach((side, index) => begin(side, pair[index]));
  $("play-result").hidden = false;
  $("play-ask").disabled = true;
  $("play-stop").hidden = false;
  say("Both are answering …");
  await Promise.all(SIDES.map((side) => answer(round, side)));
  $("play-ask").disabled = false;
  $("play-stop").hidden = true;
  const failed = SIDES.some((side) => round[side].problem);
  setVoting(!failed);
  if (failed) say(round.abort.signal.aborted ? "Stopped." : "There is nothing to vote on: an answer is missing.", true);
  else say("Both have answered. Which is better?");
});

function begin(side, release) {
  round[side] = { release, text: "", requestId: null, problem: null };
  $(`${side}-title`).textContent = side === "left" ? "Answer 1" : "Answer 2";
  $(`${side}-text`).textContent = "";
  $(`${side}-text`).classList.remove("failed");
  $(`${side}-text`).setAttribute("aria-busy", "true");
  $(`${side}-text`).closest(".answer").classList.remove("chosen");
  $(`${side}-facts`).hidden = true;
  setVoting(false);
  for (const button of voteButtons()) button.setAttribute("aria-pressed", "false");
}

const voteButtons = () => document.querySelectorAll("[data-vote]");

function setVoting(isOpen) {
  for (const button of voteButtons()) button.disabled = !isOpen;
}

/** Streams one side's answer. Never throws: what went wrong is shown in its place. */
async function answer(of, side) {
  const part = of[side];
  const place = $(`${side}-text`);
  const start = performance.now();
  try {
    const response = await post("/v1/chat/completions", requestBody(of, part.release), { signal: of.abort.signal });
    if (!response.ok) throw new Error(await problemOf(response));
    part.requestId = response.headers.get("x-request-id");
    for await (const data of eventsOf(response.body)) {
      if (data.error) throw new Error(data.error.message);
      const text = data.choices?.[0]?.delta?.content;
      if (text) {
        part.first ??= performance.now() - start;
        part.text += text;
        place.append(text);
      }
      part.usage = data.usage || part.usage;
    }
    part.total = performance.now() - start;
    if (!part.text) place.append(make("em", "an empty answer"));
  } catch (error) {
    part.problem = error.name === "AbortError" ? "stopped" : error.message;
    place.classList.add("failed");
    place.append(`${part.text ? "\n" : ""}${part.problem}`);
  }
  place.setAttribute("aria-busy", "false");
}

function requestBody(of, release) {
  const given = [...document.querySelectorAll("[data-variable]")].filter((i) => release.variables.includes(i.dataset.variable));
  const body = {
    model: release.release,
    messages: [{ role: "user", content: of.question }],
    stream: true,
    stream_options: { include_usage: true },
  };
  if (given.length) body.prompt_variables = Object.fromEntries(given.map((input) => [input.dataset.variable, input.value]));
  return body;
}

/** The JSON of each server-sent event, up to `[DONE]`. Throws when the stream breaks off before. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the answer broke off");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

$("votes").addEventListener("click", async (event) => {
  const vote = event.target.dataset?.vote;
  if (!vote) return;
  const label = { left: "better", tie: "tie", right: "worse" }[vote];
  setVoting(false);
  say("Keeping your vote …");
  let problem = null;
  try {
    const said = { request_id: round.left.requestId, label, compared_to: round.right.requestId };
    const response = await post("/v1/feedback", said);
    if (!response.ok) problem = await problemOf(response);
  } catch (error) {
    problem = error.message;
  }
  if (problem) {
    say(`The vote was not kept: ${problem}`, true);
    setVoting(true);
    return;
  }
  reveal(vote);
  event.target.setAttribute("aria-pressed", "true");
  count(vote);
  $("play-ask").focus({ preventScroll: true }); // the button that had the focus rests now
});

function reveal(vote) {
  for (const side of SIDES) {
    const { release, first, total, usage } = round[side];
    $(`${side}-title`).textContent = `${side === "left" ? "Answer 1" : "Answer 2"}: ${withAliases(release.release, release.aliases)}`;
    const facts = [release.prompt, release.model, `first words ${time(first).join(" ")}`, `all ${time(total).join(" ")}`];
    if (usage) facts.push(`${number(usage.completion_tokens)} tokens`);
    $(`${side}-facts`).textContent = facts.join(" · ");
    $(`${side}-facts`).hidden = false;
    $(`${side}-text`).closest(".answer").classList.toggle("chosen", vote === side);
  }
  const better = vote === "tie" ? "neither is better" : `${round[vote].release.release} is better`;
  say(`Kept: ${better}. It counts in “llmops eval compare”.`);
}

function count(vote) {
  const [a, b] = SIDES.map((side) => round[side].release.release).sort();
  const counts = tally.get(`${a}|${b}`) || { [a]: 0, [b]: 0, ties: 0 };
  if (vote === "tie") counts.ties += 1;
  else counts[round[vote].release.release] += 1;
  tally.set(`${a}|${b}`, counts);
  $("tally").replaceChildren(
    ...[...tally].map(([pair, found]) => {
      const [one, other] = pair.split("|");
      return make("p", `Your votes in this tab: ${one} ${found[one]}, ${other} ${found[other]}, neither ${found.ties}`);
    }),
  );
}
