"""Ask a running page as programs and strangers do: endpoints, faults, files, and many requests at once."""

import threading
import zipfile
from pathlib import Path

import httpx
import pytest
from gradio_client.exceptions import AppError
from PIL import Image

from diffusers_ext.app import serving
from diffusers_ext.outputs.record import read

from .pages import called, client, opened, served, wait

TURBO = "shapes-sd-turbo"
CIRCLE = {"prompt": "a red circle", "model": TURBO}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("page"), mcp=True) as found:
        yield found


@pytest.fixture(scope="module")
def url(page):
    return page.local_url.rstrip("/")


@pytest.fixture(scope="module")
def ask(url, tmp_path_factory):
    return client(url, tmp_path_factory.mktemp("fetched"))


def test_a_program_gets_the_picture_with_its_record(ask):
    path, facts = ask.predict(**CIRCLE, seed=3, api_name="/generate")
    assert Image.open(path).size == (64, 64)
    assert read(path)["seed"] == 3 == facts["seed"]
    again, _ = ask.predict(**CIRCLE, seed=3, api_name="/generate")
    assert Path(path).read_bytes() == Path(again).read_bytes()


def test_a_program_gets_the_picture_of_the_library(ask):
    import torch

    import diffusers_ext as dx

    settings = {"heads": {"mid_block.attentions.0.transformer_blocks.0.attn1": [0]}, "scale": 2.0}
    call = {"num_inference_steps": 2}
    path, facts = ask.predict(
        prompt="a red circle",
        model="shapes-sd",
        methods=[{"name": "softpag", **settings}],
        call=call,
        seed=5,
        api_name="/generate",
    )
    assert facts["report"][0].startswith("softpag ran in 1 of")
    pipe = dx.load("shapes-sd")
    method = dx.SoftPAG(**{**_known("shapes-sd", "softpag"), **settings})
    with dx.apply(pipe, method):
        made = pipe("a red circle", generator=torch.Generator().manual_seed(5), **call).images[0]
    gap = max(abs(a - b) for a, b in zip(made.tobytes(), Image.open(path).tobytes(), strict=True))
    assert gap <= 1


def _known(model, method):
    from diffusers_ext.models.presets import of_model

    return of_model(model).settings.get(method, {})


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompt": ""}, "write a prompt"),
        ({"prompt": "x" * 10_000}, "the prompt may have 2000 characters, got 10000"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": 5}, "the prompt is a text, got 5"),
        ({"prompt": None}, "the prompt is a text, got None"),
        ({"model": "/etc"}, "unknown model"),
        ({"model": "runwayml/stable-diffusion-v1-5"}, "loads no models of the Hub"),
        ({"seed": "abc"}, "a seed must be a whole number"),
        ({"seed": 2**63}, "a seed must be a whole number"),
        ({"seed": 1.5}, "a seed must be a whole number"),
        ({"seed": True}, "a seed must be a whole number"),
        ({"methods": "softpag"}, "methods is a list"),
        ({"methods": [{"scale": 1}]}, "a method is a table with a name"),
        ({"methods": ["none-such"]}, "unknown method 'none-such'"),
        ({"methods": ["softpag", "softpag"]}, "a method is applied once"),
        ({"methods": [{"name": "softpag", "scle": 1}]}, "nearest is 'scale'"),
        ({"methods": [{"name": "softpag", "scale": "high"}]}, "takes a number"),
        ({"methods": [{"name": "softpag", "scale": 1e9}]}, "must lie in"),
        ({"methods": [{"name": "softpag", "heads": "/etc/passwd"}]}, "may name a file on the command line"),
        ({"methods": [{"name": "radial"}]}, "Radial thins out frames and needs two"),
        ({"call": {"height": 830, "width": 470}}, "the nearest are 824 and 832"),
        ({"call": {"height": -8}}, "height"),
        ({"call": {"height": 10**6, "width": 10**6}}, "up to 2048 x 2048"),
        ({"call": {"num_inference_steps": 0}}, "between 1 and 1000"),
        ({"call": {"num_inference_steps": 999}}, "up to 200 steps"),
        ({"call": {"output_type": "latent"}}, "a call has no 'output_type'"),
        ({"call": {"num_frames": 9}}, "takes no num_frames"),
        ({"call": [1]}, "call is a table"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_sentence(ask, wrong, said):
    with pytest.raises(AppError) as error:
        ask.predict(**{**CIRCLE, **wrong}, api_name="/generate")
    assert said in str(error.value)
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)


def test_a_program_searches(ask):
    path, facts = ask.predict(**CIRCLE, budget=6, seed=4, api_name="/search")
    assert facts["seed"] == 4 and facts["evaluations"] == 6 and 0 < facts["score"] <= 1
    assert read(path)["methods"][-1]["name"] == "best-of-n" and facts["record"]["model"] == TURBO
    assert facts["correct"] in (True, False) and facts["notes"][0].startswith("kept candidate")


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompt": " "}, "write a prompt"),
        ({"sampler": "softpag"}, "takes the name of a search"),
        ({"budget": 10**9}, "budget is above 0 and up to 5000"),
        ({"budget": "many"}, "budget takes a whole number"),
        ({"rewards": ["/etc"]}, "unknown reward '/etc'"),
        ({"settings": {"best-of-n": {"n": 10**6}}}, "n is above 0 and up to 1000"),
        ({"settings": [1]}, "settings of a search are tables"),
        ({"call": {"num_inference_steps": 999}}, "up to 200 steps"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_search_is_one_sentence(ask, wrong, said):
    with pytest.raises(AppError) as error:
        ask.predict(**{**CIRCLE, **wrong}, api_name="/search")
    assert said in str(error.value)
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)


def test_the_page_goes_on_after_all_of_these(ask):
    assert ask.predict(**CIRCLE, seed=1, api_name="/generate")[1]["seed"] == 1


@pytest.mark.parametrize("data", [[], ["a red circle"], ["a red circle"] * 9])
def test_too_few_and_too_many_inputs_are_one_sentence(url, data):
    kind, said = called(url, "generate", data)
    assert kind == "error" and "takes 6 inputs" in str(said) and "object at" not in str(said)


LARGE = {"height": 192, "width": 192}
LONG = {"prompt": "a red circle", "model": "shapes-sd", "budget": 5000, "call": LARGE}  # more than `wait`


def test_a_program_sees_progress_and_ends_its_search(page, ask):
    job = ask.submit(**LONG, api_name="/search")
    wait(lambda: job.outputs())
    picture, facts = job.outputs()[-1]
    assert picture is None and "progress" in facts
    assert job.cancel()
    wait(lambda: not page.engine._jobs)


def test_a_program_that_leaves_ends_its_search(page, url):
    data = ["a red circle", "shapes-sd", "best-of-n", 5000, {}, [], [], "", LARGE, 0]
    with httpx.Client(timeout=300) as program:
        event = program.post(f"{url}/gradio_api/call/search", json={"data": data}).json()["event_id"]
        with program.stream("GET", f"{url}/gradio_api/call/search/{event}") as answer:
            assert next(answer.iter_lines()) == "event: generating"
    wait(lambda: not page.engine._jobs)


def test_a_program_makes_a_batch_and_fetches_it(ask):
    job = {"model": {"name": TURBO}, "prompts": {"texts": ["a red circle"], "seeds": "0-1"}}
    found = ask.predict(job | {"output": {"folder": "/etc"}}, api_name="/batch")
    assert found["total"] == 2 and found["notes"] == [
        "[output] folder is decided by the server; the zip has all files"
    ]
    wait(lambda: not ask.predict(found["id"], api_name="/batch_state")["running"])
    assert ask.predict(found["id"], api_name="/batch_state")["finished"] == 2
    with zipfile.ZipFile(ask.predict(found["id"], api_name="/batch_zip")) as archived:
        assert sum(name.endswith(".png") for name in archived.namelist()) == 2


def test_a_program_stops_a_batch_and_goes_on_with_it(ask):
    job = {"call": {"num_inference_steps": 30}, "prompts": {"texts": ["a red circle"], "seeds": "0-99"}}
    name = ask.predict(job, api_name="/batch")["id"]
    wait(lambda: ask.predict(name, api_name="/batch_state")["finished"])
    wait(lambda: not ask.predict(name, api_name="/batch_stop")["running"])
    stopped = ask.predict(name, api_name="/batch_state")
    assert 0 < stopped["finished"] < 100 and "stopped; it goes on where it ended" in stopped["text"]
    assert ask.predict(name, api_name="/batch_go_on")["running"]
    wait(lambda: not ask.predict(name, api_name="/batch_stop")["running"])


@pytest.mark.parametrize(
    "endpoint, given, said",
    [
        ("/batch", {"prompts": {"file": "/etc/passwd"}}, "was not uploaded"),
        ("/batch", {"model": {"name": "/etc"}, "prompts": {"texts": ["x"]}}, "unknown model '/etc'"),
        ("/batch", {}, "needs texts or file"),
        ("/batch", [1], "job takes"),
        ("/batch", {"prompts": {"texts": "a" * 10**5}}, "texts takes a list of texts, got 'aaa"),
        ("/batch_state", "0" * 32, "there is no such batch"),
        ("/batch_stop", "../../etc", "there is no such batch"),
        ("/batch_zip", None, "there is no such batch"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_with_a_batch_is_one_sentence(ask, endpoint, given, said):
    with pytest.raises(AppError) as error:
        ask.predict(given, api_name=endpoint)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1100


def test_methods_models_and_plans_can_be_asked_for(ask):
    assert TURBO in ask.predict(api_name="/models")
    assert ask.predict(api_name="/methods")["softpag"]["scale"]["high"] == 20
    assert "density" in ask.predict("flux.1", "gna", api_name="/plan")["text"]
    with pytest.raises(AppError, match="nearest"):
        ask.predict("flux.one", "gna", api_name="/plan")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/proc/self/environ",
        __file__,
        serving.__file__,
    ],
)
def test_no_file_of_the_server_can_be_fetched(url, path):
    assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404)


def test_a_link_in_the_folder_leads_nowhere(url, tmp_path_factory):
    import os

    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    (cache / "made").mkdir(exist_ok=True)
    link = cache / "made" / "link.png"
    link.symlink_to("/etc/passwd")
    try:
        answer = httpx.get(f"{url}/gradio_api/file={link}")
        assert answer.status_code in (403, 404), answer.text
    finally:
        link.unlink()


def test_agents_find_the_same_endpoints(url):
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{url}/gradio_api/mcp/") as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            made = await session.call_tool("generate", {**CIRCLE, "seed": 2})
            wrong = await session.call_tool("generate", {**CIRCLE, "prompt": ""})
        return tools, made, wrong

    tools, made, wrong = asyncio.run(talk())
    assert {"generate", "search", "batch", "batch_zip", "models", "methods", "plan"} <= tools.keys()
    assert "What to draw" in tools["generate"].inputSchema["properties"]["prompt"]["description"]
    assert not made.isError and "a-red-circle-2" in made.content[0].text
    assert wrong.isError and wrong.content[0].text.startswith("write a prompt")


def test_many_at_once_do_not_mix_and_the_queue_is_bounded(url):
    """Each of 30 requests has settings of its own, and all come at the same time."""
    found, refused = {}, []

    def go(number):
        methods = [{"name": "softpag", "scale": 1 + number / 10}] if number % 2 else []
        kind, data = called(url, "generate", ["a red circle", TURBO, methods, "", {}, number])
        if kind == "complete":
            found[number] = data[1]["record"]["seed"], data[1]["record"]["methods"]
        else:
            refused.append(str(data))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(found) + len(refused) == 30 and len(found) >= 20
    assert all("the queue is full, 20 requests wait" in said for said in refused)
    for number, (seed, methods) in found.items():
        assert seed == number
        assert [m["scale"] for m in methods] == ([1 + number / 10] if number % 2 else [])


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"host": "192.168.1.2"}, {"share": True}])
def test_a_public_page_needs_a_password(tmp_path, options):
    with pytest.raises(ValueError, match="needs a name and password; add --auth NAME:PASSWORD"):
        serving.serve(tmp_path, **options)


def test_agents_and_a_password_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="--mcp and --auth exclude each other"):
        serving.serve(tmp_path, auth=("ann", "secret"), mcp=True)


def test_with_a_password_nothing_is_open(tmp_path):
    with served(tmp_path, auth=("ann", "secret")) as url:
        assert httpx.post(f"{url}/gradio_api/call/models", json={"data": []}).status_code == 401
        assert httpx.get(f"{url}/config").status_code == 401
        wrong = httpx.post(f"{url}/login", data={"username": "ann", "password": "x"})
        assert wrong.status_code == 400
        right = httpx.post(f"{url}/login", data={"username": "ann", "password": "secret"})
        assert right.status_code == 200


def test_a_port_in_use_and_one_that_is_none_are_one_sentence(url, tmp_path):
    with pytest.raises(OSError, match="which may be in use; choose another --port"):
        serving.serve(tmp_path, port=int(url.rpartition(":")[2]))
    with pytest.raises(ValueError, match="--port must lie between 1 and 65535, got 0"):
        serving.serve(tmp_path, port=0)
