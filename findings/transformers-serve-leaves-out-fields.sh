#!/bin/sh
# transformers 5.23.0, `transformers serve`: a chat request with `n`, `logprobs` or a JSON schema is answered with status 200
# as if it had none of them; one with `stop` ends there, but the answer still holds the stop string.
#
# A good guess: the server refuses fields that it does not support, since it refuses fields that it does not know with 422; and
# leaves the stop string out of the answer, as OpenAI's API does. Seen: of OpenAI's own fields, `n`, `logprobs` and
# `response_format` are left out, with a line in the server's log that no client sees. The answers are the same to the letter.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers[serving]==5.23.0' torch==2.13.0
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import socket
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# A model that was never trained, with one token for each letter: what it answers means nothing, and is always the same.
folder = Path(sys.argv[1])
model_folder = folder / "model"
vocabulary = {letter: number for number, letter in enumerate(["<end>", *string.ascii_letters])}
letters = Tokenizer(models.BPE(vocabulary, []))
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>", pad_token="<end>")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
tokenizer.save_pretrained(model_folder)
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **shape, **ids)).save_pretrained(model_folder)

with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
command = [folder / "venv/bin/transformers", "serve", model_folder, "--host", "127.0.0.1", "--port", str(port)]
log = folder / "log"


def ask(**fields: object) -> tuple[int, str]:
    """The status, and the answers."""
    message = {"role": "user", "content": "Hello"}
    body = {"model": str(model_folder), "messages": [message], "max_tokens": 12, "temperature": 0, **fields}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            choices = json.load(reply)["choices"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    assert all(choice.get("logprobs") is None for choice in choices)
    return reply.status, " | ".join(choice["message"]["content"] for choice in choices)


with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
    try:
        while True:
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        status, plain = ask()
        print(f"nothing asked for: {status} {plain}")
        assert status == 200 and len(plain) == 12
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        json_schema = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
        for asked in ({"n": 2}, {"logprobs": True}, {"response_format": json_schema}):
            found = ask(**asked)
            print(f"{json.dumps(asked)}: {found[0]} {found[1]}")
            assert found == (200, plain)
        stop = plain[4]
        found = ask(stop=[stop])
        print(f"stop at {stop}: {found[0]} {found[1]}")
        assert found == (200, plain[: plain.index(stop) + 1])
        status, problem = ask(colour="red")
        print(f"a field that nobody knows: {status} {problem}")
        assert status == 422
    finally:
        server.terminate()
said = [line for line in log.read_text().splitlines() if "Ignoring unsupported" in line]
print("its log:", *said, sep="\n  ")
assert len(said) == 3
PYTHON
