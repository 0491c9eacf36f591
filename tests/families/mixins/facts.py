"""The facts that a family states agree with the model."""

import pytest
import torch

from diffusers_ext.core import RunContext
from diffusers_ext.errors import UnsupportedError
from diffusers_ext.families import family_of

from ..parity import install, seen_by_cores
from .config import Config


class FactsTests(Config):
    """Stock processors, sites, timestep, rows and text keys."""

    def test_stock_is_what_diffusers_installs(self):
        model = self.build()
        assert family_of(model) is self.family
        installed = {type(model.get_submodule(s.name).processor) for s in self.family.sites(model, "")}
        assert installed == {self.stock}
        fused = {name for name in self.family.stock if name.startswith("Fused")}
        assert self.family.stock == {self.stock.__name__} | fused
        assert self.family.denoisers == (type(model).__name__,)

    def test_sites_are_all_attention_modules(self):
        model = self.build()
        sites = self.family.sites(model, "transformer")
        names = {name for name, module in model.named_modules() if hasattr(module, "processor")}
        outside = {name for name in names if self.outside and self.outside in name}
        assert bool(outside) == bool(self.outside) and {s.name for s in sites} == names - outside
        assert [s.index for s in sites] == list(range(len(names - outside)))
        assert {s.component for s in sites} == {"transformer"}

    def test_timestep_and_batch(self):
        call = self.inputs(3)
        timestep = torch.as_tensor(self.family.timestep(call))
        assert (timestep == self.timestep).all() and timestep.ndim < 2
        assert self.family.batch(call) == 3

    def test_text_keys_are_those_that_the_text_moves(self):
        """Another prompt changes all keys that the layout calls text, and another picture none of them."""
        model, call = self.build(), self.inputs(1)
        picture = next(name for name in ("hidden_states", "sample") if name in call)
        site = next(s for s in self.family.sites(model, "") if s.kind != "self")
        text = self.family.layout(model, call).text_keys(site.kind)
        plain = self._keys(model, call, site)
        for name, moved in (("encoder_hidden_states", True), (picture, False)):
            changed = self._keys(model, call | {name: call[name] + 1 + call[name].roll(1, -1)}, site) != plain
            changed = changed.flatten(2).any(-1)[0]
            assert text.stop > text.start and (changed[text] == moved).all()
        others = torch.ones(len(changed), dtype=torch.bool)
        others[text] = False
        assert (changed[others]).all() and others.any() == (site.kind == "joint")

    def _keys(self, model, call, site):
        """The keys `[B, L, H, D]` that a site gets in a call."""
        seen = seen_by_cores(model, self.family, call)
        return next(k for s, (_, k, *_) in seen.items() if s.name == site.name)

    def test_processors_start_with_the_dense_core(self):
        model = self.build()
        for site in self.family.sites(model, ""):
            processor = self.family.processor(site, RunContext())
            assert processor.core == processor.dense and not processor.reads_layout

    def test_rebuilding_without_a_session_is_refused(self):
        for processor in install(self.build(), self.family, self.inputs()):
            name = type(processor).__name__
            with pytest.raises(
                UnsupportedError, match=f"{name} belongs to an applied .*load the IP-Adapter, then"
            ):
                type(processor)()
