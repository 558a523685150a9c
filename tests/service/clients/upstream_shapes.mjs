// Asks two servers for every shape named, whole and streamed; prints what the official npm package makes of each.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, direct, through, ...shapes] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(createRequire(`${folder}/`).resolve("openai")));
const ofEach = new Set(["id", "model", "created"]);

function told(value) {
  if (Array.isArray(value)) return value.map(told);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([name, item]) => item != null && !ofEach.has(name));
  return Object.fromEntries(kept.map(([name, item]) => [name, told(item)]));
}

async function whole(client, asked) {
  return told(await client.chat.completions.create(asked));
}

async function streamed(client, asked) {
  const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
  let around = {};
  stream.on("chunk", (chunk) => { around = { ...around, ...told(chunk) }; });
  try {
    return { ...around, ...told(await stream.finalChatCompletion()) };
  } catch (error) {
    return { ...around, error: error.message.split("\n")[0] }; // below it, what came, with its id
  }
}

async function answers(baseURL) {
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const found = {};
  for (const shape of shapes) {
    const [name, form] = JSON.parse(shape);
    const asked = { model: "assistant", messages: [{ role: "user", content: name }] };
    found[shape] = await (form === "whole" ? whole : streamed)(client, asked);
  }
  return found;
}

console.log(JSON.stringify({ direct: await answers(direct), through: await answers(through) }));
