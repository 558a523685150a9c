// Everything the official npm package does with the gateway; prints one JSON object. Run in a folder that has `openai`.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, baseURL] = process.argv.slice(2);
const resolve = createRequire(`${folder}/`).resolve;
const { default: OpenAI } = await import(pathToFileURL(resolve("openai")));
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello world" }];
const told = {};

const chat = await client.chat.completions.create({ model: "assistant", messages });
told.chat = chat.choices[0].message.content;

const { response } = await client.chat.completions.create({ model: "assistant", messages }).withResponse();
told.release = response.headers.get("x-llmops-release");

const pieces = [];
const stream = await client.chat.completions.create({
  model: "assistant", messages, stream: true, stream_options: { include_usage: true },
});
let usage = null;
for await (const chunk of stream) {
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
  usage = chunk.usage ?? usage;
}
told.streamed = pieces.join("");
told.tokens = usage.completion_tokens;

const schema = { type: "object", properties: { name: { type: "string" } } };
const parsed = await client.chat.completions.parse({
  model: "assistant", messages, response_format: { type: "json_schema", json_schema: { name: "person", schema, strict: true } },
});
told.structured = JSON.parse(parsed.choices[0].message.content);

told.completion = (await client.completions.create({ model: "assistant", prompt: "hello world" })).choices[0].text;

told.response = (await client.responses.create({ model: "assistant", input: "hello world" })).output_text;
const events = client.responses.stream({ model: "assistant", input: "hello world" });
const kinds = [];
events.on("event", (event) => kinds.push(event.type));
told.responseStreamed = (await events.finalResponse()).output_text;
told.kinds = [...new Set(kinds)];

const vectors = await client.embeddings.create({ model: "all-minilm-l6-v2", input: ["one", "two words"] });
told.vectors = vectors.data.map((item) => Array.from(item.embedding).slice(0, 2));

told.models = (await client.models.list()).data.map((card) => card.id);

try {
  await client.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  told.error = { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
}

console.log(JSON.stringify(told));
