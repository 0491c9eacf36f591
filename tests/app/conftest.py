import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'app'")


@pytest.fixture(scope="session")
def engine():
    """An engine with the models of the package; a model that one test has loaded stays for the next."""
    from diffusers_ext.app.engine import Engine
    from diffusers_ext.app.models import Models

    return Engine(Models())


@pytest.fixture
def batches(engine, tmp_path):
    """The batches of a server without any yet."""
    from diffusers_ext.app.batch_store import Batches

    made = Batches(engine, tmp_path)
    yield made
    made.close()
