"""Jobs of one step, and batches that have made them."""

TURBO = {"model": {"name": "shapes-sd-turbo"}}


def job(*texts, **more):
    """Tables of a job for a model of one step."""
    prompts = {"texts": list(texts or ("a red circle",)), "seeds": "0-1"}
    return {**TURBO, "prompts": prompts, **more}


def finished(batches, data, files=(), title="job"):
    batch = batches.create(data, dict(files), title)
    batch.join(120)
    return batch
