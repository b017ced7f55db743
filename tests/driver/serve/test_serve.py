"""The completions API over the loopback: with the published client, with what is malformed, and with clients that go away."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import tessera as ts
from tessera.driver.cli import main
from tessera.driver.serve.run import service
from tessera.driver.serve.worker import Busy
from tessera.runtime.generate.engine import Request

from ...runtime.generate.support import greedy, said, scores, weights, words
from ...seeds.routing import known
from .support import Served, chat, serving, soon

TEMPLATE = """\
{% for m in messages %}
    {% if m.role == 'bad' %}
    {{ raise_exception('no such role') }}
    {% endif %}
    {{ m.content }}
{% endfor %}
w7
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    template = folder.parent / "chat.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    options = (
        "--rows", "2", "--queue", "6", "--capacity", "400", "--threads", "1", "--chunk", "2", "--chat-template", str(template)
    )  # fmt: skip
    with serving(folder, *options) as found:
        yield found
        # Nothing of the tests is left in it, and the other signal ends it as well.
        assert found.settles(0, 0)
        assert found.stop(signal.SIGINT) == 0
        assert found.complaints() == ""


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.base}/v1", api_key="none", max_retries=0)


def test_the_published_client_gets_what_the_program_makes(client: openai.OpenAI, folder: Path) -> None:
    assert [model.id for model in client.models.list()] == ["chat"]
    assert client.models.retrieve("chat").owned_by == "tessera"
    found = client.completions.create(model="chat", prompt="w5 w9 w33", max_tokens=8, temperature=0)
    assert found.choices[0].text == said(greedy([5, 9, 33], 8))
    assert found.choices[0].finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (3, 8, 11)
    several = client.completions.create(model="chat", prompt=[[5, 9, 33], [7]], max_tokens=6, temperature=0, n=2)
    assert [c.text for c in several.choices] == [said(greedy(ids, 6)) for ids in ([5, 9, 33], [5, 9, 33], [7], [7])]
    drawn = client.completions.create(model="chat", prompt="w5", max_tokens=9, seed=3, n=2, top_p=0.9, extra_body={"top_k": 20})
    expected = ts.generate(
        folder, ["w5", "w5"], tokenizer=folder, max_tokens=9, seed=3, temperature=1.0, top_p=0.9, top_k=20
    )
    assert [c.text for c in drawn.choices] == [c.text for c in expected]
    assert len({c.text for c in client.completions.create(model="chat", prompt="w5", max_tokens=9, n=4).choices}) > 1


def test_pieces_come_as_events(client: openai.OpenAI) -> None:
    whole = said(greedy([5, 9, 33], 8))
    stream = client.completions.create(
        model="chat", prompt="w5 w9 w33", max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *parts, last = list(stream)
    assert last.usage.completion_tokens == 8
    assert "".join(part.choices[0].text for part in parts) == whole
    assert [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason] == ["length"]
    assert len(parts) == 8
    stop = whole.split()[4]
    ended = client.completions.create(model="chat", prompt="w5 w9 w33", max_tokens=8, temperature=0, stop=[f" {stop}", "w1000"])
    assert whole.startswith(ended.choices[0].text)
    assert (ended.choices[0].finish_reason, stop in ended.choices[0].text.split()) == ("stop", False)
    stream = client.completions.create(model="chat", prompt=["w5", "w7"], max_tokens=5, temperature=0, stream=True)
    both = [part.choices[0] for part in stream]
    for index, ids in enumerate(([5], [7])):
        assert "".join(c.text for c in both if c.index == index) == said(greedy(ids, 5))


def test_conversations_go_through_the_template(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w9"}]
    found = client.chat.completions.create(model="chat", messages=messages, max_completion_tokens=6, temperature=0)
    assert found.choices[0].message.content == said(greedy([5, 9, 7], 6))
    parts = list(client.chat.completions.create(model="chat", messages=messages, max_tokens=6, temperature=0, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == said(greedy([5, 9, 7], 6))
    messages[1]["role"] = "bad"
    with pytest.raises(openai.BadRequestError, match="no such role"):
        client.chat.completions.create(model="chat", messages=messages)


def test_tokens_come_with_how_likely_they_were(client: openai.OpenAI) -> None:
    asked: Any = {"model": "chat", "prompt": "w5 w9 w33", "max_tokens": 6, "temperature": 0}
    made = greedy([5, 9, 33], 6)
    plain = client.completions.create(**asked, logprobs=2).choices[0]
    found = plain.logprobs
    assert "".join(found.tokens) == plain.text
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(6)]
    for i, (token, logprob, best) in enumerate(zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True)):
        row = scores([5, 9, 33, *made[:i]])[-1].astype(np.float64)
        expected = np.sort(row - np.log(np.exp(row).sum()))[::-1]
        np.testing.assert_allclose([logprob, *best.values()], expected[[0, 0, 1]], atol=1e-4)
        assert next(iter(best)) == token
    parts = list(client.completions.create(**asked, logprobs=2, stream=True))
    streamed = [part.choices[0].logprobs for part in parts]
    assert [token for one in streamed for token in one.tokens] == found.tokens
    assert [offset for one in streamed for offset in one.text_offset] == found.text_offset
    none = client.completions.create(**asked, logprobs=0).choices[0].logprobs
    assert (none.tokens, none.token_logprobs, none.top_logprobs) == (found.tokens, found.token_logprobs, [{}] * 6)
    assert client.completions.create(**asked).choices[0].logprobs is None

    said: Any = {"model": "chat", "messages": [{"role": "user", "content": "w5"}], "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**said, logprobs=True, top_logprobs=3).choices[0]
    content = whole.logprobs.content
    assert "".join(entry.token for entry in content) == whole.message.content
    assert all(bytes(entry.bytes).decode() == entry.token and len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.top_logprobs[0].token == entry.token for entry in content)
    parts = list(client.chat.completions.create(**said, logprobs=True, stream=True))
    assert [e.token for part in parts for e in part.choices[0].logprobs.content] == [entry.token for entry in content]


@pytest.mark.extended
@pytest.mark.parametrize("options", [(), ("--shape", "dynamic", "--chunk", "3")], ids=str)
def test_with_a_draft_the_answers_are_the_same(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    draft = tmp_path / "draft"
    program = ts.load("dyspec")
    ts.compile(program, weights=weights(program, 1), verify=False).save(draft)
    with serving(folder, "--draft", str(draft), "--capacity", "64", "--threads", "1", *options) as found:
        client = openai.OpenAI(base_url=f"{found.base}/v1", api_key="none", max_retries=0)
        asked: Any = {"model": "chat", "max_tokens": 9, "temperature": 0}
        several = client.completions.create(prompt=[[5, 9, 33, 7], [7]], logprobs=1, **asked)
        assert [c.text for c in several.choices] == [said(greedy(ids, 9)) for ids in ([5, 9, 33, 7], [7])]
        assert all("".join(c.logprobs.tokens) == c.text for c in several.choices)
        parts = client.completions.create(prompt=[5, 9, 33, 7], stream=True, **asked)
        assert "".join(part.choices[0].text for part in parts) == several.choices[0].text
        with pytest.raises(openai.BadRequestError, match="the cache holds 64 tokens: too few for 4 of the prompt") as caught:
            client.completions.create(model="chat", prompt=[5, 9, 33, 7], max_tokens=60)
        assert caught.value.code == "context_length_exceeded"
        assert found.stop() == 0
        assert found.complaints() == ""


@pytest.mark.extended
@pytest.mark.parametrize(("seed", "option", "chance"), [("r2r", "threshold", 0.2), ("hamburger", "confidence", 0.7)])
def test_a_server_of_more_entry_points_says_what_python_gives(tmp_path: Path, seed: str, option: str, chance: float) -> None:
    """Two models and a router, and groups of tokens; prompts side by side, read in chunks."""
    program, made = ts.load(seed), tmp_path / "chat"
    own = known(trained=True) if seed == "r2r" else weights(program, 0, 0.2)
    ts.compile(program, target="onnx", weights=own, verify=False).save(made)
    words(made)
    prompts = [[5, 9, 33, 7], [7], [8, 4, 6, 9, 11]]
    expected: Any = ts.generate(made, prompts, tokenizer=made, max_tokens=16, **{option: chance})
    plain: Any = ts.generate(made, prompts, tokenizer=made, max_tokens=16)
    assert [c.tokens for c in plain] != [c.tokens for c in expected]
    with serving(made, f"--{option}", str(chance), "--rows", "2", "--capacity", "64", "--threads", "1", "--chunk", "2") as found:
        client = openai.OpenAI(base_url=f"{found.base}/v1", api_key="none", max_retries=0)
        asked: Any = {"model": "chat", "max_tokens": 16, "temperature": 0}
        several = client.completions.create(prompt=prompts, **asked)
        assert [c.text for c in several.choices] == [c.text for c in expected]
        parts = client.completions.create(prompt=prompts[2], stream=True, **asked)
        assert "".join(part.choices[0].text for part in parts) == expected[2].text
        assert found.stop() == 0
        assert found.complaints() == ""


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{", 400, None, "the body is no JSON"),
        (b"[" * 100_000, 400, None, "the body is no JSON"),
        (b"\xff", 400, None, "the body is no JSON"),
        (b"[1]", 400, None, "the body is no JSON object"),
        (b"x" * (5 << 20), 413, None, "the body is longer than"),
        ({}, 400, "prompt", "`prompt` is a text, a list of token ids, or a list of such"),
        ({"prompt": {"a": 1}}, 400, "prompt", "`prompt` is a text"),
        ({"prompt": ["w5", 7]}, 400, "prompt", "`prompt` is a text"),
        ({"prompt": ""}, 400, "prompt", "the prompt is empty"),
        ({"prompt": [3, 64]}, 400, "prompt", "the prompt has the token 64"),
        ({"prompt": "w5 " * 395, "max_tokens": 9}, 400, "prompt", "395 token(s), and 9 more are to be made: the cache holds 400"),
        ({"prompt": "w5", "max_tokens": 0}, 400, "max_tokens", "`max_tokens` is 0"),
        ({"prompt": "w5", "max_tokens": "9"}, 400, "max_tokens", '`max_tokens` is "9"'),
        ({"prompt": "w5", "n": 9}, 400, "n", "9 completions are asked for, and a request may have 1 to 8"),
        ({"prompt": [], "n": 1}, 400, "prompt", "the prompt is empty"),
        ({"prompt": "w5", "temperature": -1}, 400, "temperature", "`temperature` is -1"),
        ({"prompt": "w5", "top_p": "high"}, 400, "top_p", "`top_p` is 'high'"),
        ({"prompt": "w5", "stop": [""]}, 400, "stop", "`stop` is a text, or a list of at most 16"),
        ({"prompt": "w5", "stream": "yes"}, 400, "stream", "`stream` is true or false"),
        ({"prompt": "w5", "stream_options": {"x": 1}}, 400, "stream_options", "`stream_options` may have"),
        ({"prompt": "w5", "logprobs": 6}, 400, "logprobs", "`logprobs` is 6, and must be a whole number from 0 to 5"),
        ({"prompt": "w5", "logprobs": True}, 400, "logprobs", "`logprobs` is true, and must be a whole number from 0 to 5"),
        ({"prompt": "w5", "top_logprobs": 2}, 400, "top_logprobs", "`top_logprobs` is of conversations"),
        ({"prompt": "w5", "frequency_penalty": 0.5}, 400, "frequency_penalty", "is not supported"),
        ({"prompt": "w5", "temprature": 1}, 400, "temprature", "there is no field `temprature`; did you mean `temperature`?"),
        (b'{"\\ud800": 1}', 400, None, "the body is no JSON in UTF-8"),
        (b'{"prompt": "w5", "model": "\\udc00"}', 400, None, "the body is no JSON in UTF-8"),
        ({"prompt": "w5", "temperature": 10**400}, 400, "temperature", "`temperature` is 1000"),
        ({"prompt": "w5", "seed": 10**400}, 400, "seed", "`seed` is 1000"),
        ({"prompt": "w5", "stream_options": []}, 400, "stream_options", "`stream_options` may have"),
        ({"prompt": "w5", "model": None, "n": 0}, 400, "n", "`n` is 0"),
        ({"prompt": "w5", "model": "gpt"}, 404, "model", "there is no model `gpt`; this is `chat`"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_answered_with_what_is_wrong(
    served: Served, body: Any, status: int, param: str | None, says: str
) -> None:
    found, answer = served.ask("/v1/completions", **({"raw": body} if isinstance(body, bytes) else {"body": body}))
    assert (found, answer["error"]["param"]) == (status, param)
    assert says in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_other_places(served: Served) -> None:
    assert served.ask("/v1/embeddings", {})[0] == 404
    assert served.ask("/v1/completions")[0] == 405
    assert "there is no GET /v1/completions here" in served.ask("/v1/completions")[1]["error"]["message"]
    assert served.ask("/v1/models/other")[1]["error"]["code"] == "model_not_found"
    assert served.ask("/v1/chat/completions", {"messages": [{"role": "user"}]})[1]["error"]["param"] == "messages"
    said = {"messages": [{"role": "user", "content": "w5"}], "top_logprobs": 2}
    assert served.ask("/v1/chat/completions", said)[1]["error"]["message"] == "`top_logprobs` needs `logprobs`: true"
    assert served.ask("/v1/chat/completions", {**said, "top_logprobs": 21})[1]["error"]["param"] == "top_logprobs"
    assert served.ask("/v1/chat/completions", {**said, "logprobs": 2})[1]["error"]["param"] == "logprobs"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_gives_its_row_free(served: Served, stream: bool) -> None:
    assert served.settles(0, 0)
    host, port = served.base.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "w5 w9", "max_tokens": 390, "temperature": 0, "stream": stream})
    gone = [http.client.HTTPConnection(host, int(port)) for _ in range(5)]
    for connection in gone:
        connection.request("POST", "/v1/completions", body)
    # Two run, the others wait; all of them leave.
    assert soon(lambda: served.state()[0] > 0)
    for connection in gone:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert served.settles(0, 0)
    found = served.ask("/v1/completions", {"prompt": "w5 w9 w33", "max_tokens": 8, "temperature": 0})[1]
    assert found["choices"][0]["text"] == said(greedy([5, 9, 33], 8))


def test_more_than_may_wait_is_refused(folder: Path) -> None:
    worker = service(folder, tokenizer=str(folder), name="chat", rows=1, queue=2, capacity=16).worker
    jobs = worker.accept([Request([5], 4)] * 2)
    with pytest.raises(Busy):
        worker.accept([Request([5], 4)] * 2)
    worker.accept([Request([5], 4)])
    worker.release(jobs)
    assert worker.pending == 1
    assert all(job.ticket.cancelled for job in jobs)


def test_answers_on_their_way_are_ended_before_the_server(folder: Path) -> None:
    with serving(folder, "--threads", "1", "--capacity", "1200") as found:
        answers: list[Any] = []
        body = {"prompt": "w5 w9 w33", "max_tokens": 1000, "temperature": 0}
        asking = threading.Thread(target=lambda: answers.append(found.ask("/v1/completions", body)))
        asking.start()
        assert soon(lambda: found.state()[0] == 1)
        assert found.stop(signal.SIGTERM) == 0
        asking.join()
        assert answers[0][1]["usage"]["completion_tokens"] == 1000
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(found.base.rpartition(":")[2])), timeout=5)


def test_a_server_that_cannot_start_says_why(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(folder), "--port", port]) == 1
    assert f"error[E0956]: cannot listen at 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err
    odd = tmp_path / "odd.jinja"
    odd.write_text("{% for %}", encoding="utf-8")
    for options, code in (
        ([str(folder), "--host", "nowhere.invalid"], "E0956"),
        ([str(folder), "--host", "192.0.2.1"], "E0956"),
        ([str(folder / "prefill.onnx")], "E0924"),
        ([str(folder / "prefill.onnx"), "--tokenizer", str(folder)], "E0950"),
        ([str(folder), "--eos", "</S>"], "E0953"),
        ([str(folder), "--chat-template", "none.jinja"], "E0001"),
        ([str(folder), "--chat-template", str(odd)], "E0920"),
        ([str(folder), "--shape", "dynamic"], "E0011"),
        ([str(folder), "--draft", str(folder), "--rows", "2"], "E0011"),
        ([str(folder), "--draft", str(folder), "--budget", "4096"], "E0954"),
        ([str(folder), "--threshold", "0.5"], "E0957"),
        ([str(folder), "--threshold", "0.5", "--draft", str(folder)], "E0957"),
        ([str(folder), "--confidence", "2"], "E0958"),
        ([str(folder), "--confidence", "0.5", "--threshold", "0.5"], "E0958"),
    ):
        assert main(["serve", *options, "--port", "0"]) == 1
        said = capsys.readouterr().err
        assert f"error[{code}]" in said
        assert ("help: an address of this machine" in said) == ("--host" in options)
