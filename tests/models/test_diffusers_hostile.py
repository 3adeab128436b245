"""Folders of strangers: whatever is wrong with one is answered with a sentence, and nothing in it is run."""

import json
import pickle
import resource
import struct
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_dit, tiny_sd, tiny_sdxl, tiny_unet

import turningpoint as tp
from turningpoint.errors import TurningpointError
from turningpoint.models._pipelines import hub
from turningpoint.models._pipelines.hub import wanted_files

CODE = "import pathlib\npathlib.Path({!r}).touch()\n"


@pytest.fixture
def unet(tmp_path):
    tiny_unet(tmp_path / "p")
    return tmp_path / "p"


@pytest.fixture(scope="module")
def saved_sd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    tiny_sd(folder)
    return folder


@pytest.fixture
def sd(saved_sd, tmp_path):
    import shutil

    return shutil.copytree(saved_sd, tmp_path / "sd")


def changed(path, **values):
    """Change entries of a JSON object; None removes one."""
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def load(folder, **options):
    return tp.load(f"diffusers:{folder}", **options)


class TestCode:
    @pytest.mark.parametrize("kind", ["pipeline", ["pipeline", "Mine"], {"a": 1}, None])
    def test_a_pipeline_of_its_own(self, unet, tmp_path, refuses, kind):
        ran = tmp_path / "ran"
        (unet / "pipeline.py").write_text(CODE.format(str(ran)))
        changed(unet / "model_index.json", _class_name=kind)
        with refuses("which is not read here|asks for code of its own"):
            load(unet)
        assert not ran.exists()

    @pytest.mark.parametrize(
        "library", ["mine", "unet", "diffusers_modules.local.mine", "os", "diffusers", 3]
    )
    def test_a_component_of_its_own(self, unet, tmp_path, refuses, library):
        ran = tmp_path / "ran"
        for place in (unet, unet / "unet"):
            (place / "mine.py").write_text(CODE.format(str(ran)))
            (place / "unet.py").write_text(CODE.format(str(ran)))
        changed(unet / "model_index.json", unet=[library, "Mine"])
        with refuses("the component unet of .* (cannot be loaded: it is|is missing)"):
            load(unet)
        assert not ran.exists()

    def test_the_class_of_the_configuration(self, unet, refuses):
        changed(unet / "unet" / "config.json", _class_name="AutoencoderKL")
        with refuses("its config.json is of 'AutoencoderKL'; accepted: UNet2DModel"):
            load(unet)

    def test_code_named_by_a_text_encoder_is_not_run(self, sd, tmp_path):
        ran = tmp_path / "ran"
        for name in ("text_encoder", "tokenizer"):
            (sd / name / "mine.py").write_text(CODE.format(str(ran)))
        named = {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine", "AutoTokenizer": ["mine.Mine", None]}
        changed(sd / "text_encoder" / "config.json", auto_map=named, attn_implementation="stranger/kernel")
        changed(sd / "tokenizer" / "tokenizer_config.json", auto_map=named)
        assert load(sd).takes_prompts
        assert not ran.exists()

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_pickle_with_a_payload(self, unet, tmp_path, refuses, zipped, protocol):
        ran = tmp_path / "ran"

        class Payload:
            def __reduce__(self):
                return exec, (CODE.format(str(ran)),)

        (unet / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        file = unet / "unet" / "diffusion_pytorch_model.bin"
        if zipped:
            torch.save({"conv_in.weight": Payload()}, file, pickle_protocol=protocol)
        else:
            file.write_bytes(pickle.dumps({"conv_in.weight": Payload()}, protocol=protocol))
        with refuses("the component unet .* cannot be loaded"):
            load(unet)
        assert not ran.exists()

    def test_a_payload_beside_safetensors_is_not_read(self, unet, tmp_path):
        (unet / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04never read")
        assert load(unet).shape == (3, 8, 8)

    @pytest.mark.parametrize("name", ["text_encoder"])
    def test_a_text_encoders_payload(self, sd, tmp_path, refuses, name):
        ran = tmp_path / "ran"

        class Payload:
            def __reduce__(self):
                return exec, (CODE.format(str(ran)),)

        (sd / name / "model.safetensors").unlink()
        torch.save(
            {"text_model.embeddings.token_embedding.weight": Payload()}, sd / name / "pytorch_model.bin"
        )
        with refuses("the component text_encoder .* cannot be loaded"):
            load(sd)
        assert not ran.exists()

    def test_parts_that_are_not_needed_are_not_loaded(self, sd, tmp_path):
        ran = tmp_path / "ran"
        (sd / "safety_checker").mkdir()
        (sd / "safety_checker" / "mine.py").write_text(CODE.format(str(ran)))
        changed(sd / "model_index.json", safety_checker=["mine", "Mine"], image_encoder=["mine", "Mine"])
        assert load(sd).takes_prompts
        assert not ran.exists()


class TestWeights:
    def weights(self, folder):
        return folder / "unet" / "diffusion_pytorch_model.safetensors"

    @pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
    def test_truncated(self, unet, refuses, kept):
        file = self.weights(unet)
        file.write_bytes(file.read_bytes()[:kept])
        with refuses("the component unet .* cannot be loaded"):
            load(unet)

    def test_a_header_that_promises_too_much(self, unet, refuses):
        file = self.weights(unet)
        header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        file.write_bytes(struct.pack("<Q", len(header)) + header)
        with refuses("the component unet .* cannot be loaded"):
            load(unet)

    def test_missing(self, unet, refuses):
        state = load_file(self.weights(unet))
        del state["conv_in.bias"]
        save_file(state, self.weights(unet), metadata={"format": "pt"})
        with refuses("its weights have 1 missing tensors, the first 'conv_in.bias'"):
            load(unet)

    def test_surplus(self, unet, refuses):
        state = load_file(self.weights(unet)) | {"surplus": torch.zeros(3)}
        save_file(state, self.weights(unet), metadata={"format": "pt"})
        with refuses("its weights have 1 surplus tensors, the first 'surplus'"):
            load(unet)

    def test_of_another_shape(self, unet, refuses):
        state = load_file(self.weights(unet))
        state["conv_in.bias"] = torch.zeros(9)
        save_file(state, self.weights(unet), metadata={"format": "pt"})
        with refuses("the component unet .* cannot be loaded: .*conv_in.bias"):
            load(unet)

    def test_of_a_text_encoder(self, sd, refuses):
        file = sd / "text_encoder" / "model.safetensors"
        state = load_file(file)
        name = next(key for key in state if key.endswith("final_layer_norm.weight"))
        save_file({k: v for k, v in state.items() if k != name}, file, metadata={"format": "pt"})
        with refuses("the component text_encoder .* 1 missing tensors"):
            load(sd)
        save_file(state | {name: torch.zeros(3)}, file, metadata={"format": "pt"})
        with refuses("the component text_encoder .* cannot be loaded"):
            load(sd)

    def test_none(self, unet, refuses):
        self.weights(unet).unlink()
        with refuses("there are no weights in"):
            load(unet)

    def test_compressed_archive(self, unet, refuses):
        self.weights(unet).unlink()
        file = unet / "unet" / "diffusion_pytorch_model.bin"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/data/0", bytes(10**6))
        with refuses("diffusion_pytorch_model.bin is compressed"):
            load(unet)

    @pytest.mark.parametrize("named", ["../outside.safetensors", "/etc/passwd", "bomb.bin", 3, ["a"]])
    def test_shards_elsewhere(self, unet, refuses, named):
        index = self.weights(unet).with_name("diffusion_pytorch_model.safetensors.index.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": named}}))
        with refuses("names other files than the .safetensors files beside it"):
            load(unet)

    def test_not_torchs(self, unet, refuses):
        self.weights(unet).unlink()
        (unet / "unet" / "diffusion_pytorch_model.bin").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\n"
        )
        with refuses("the component unet .* cannot be loaded"):
            load(unet)


class TestConfigurations:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("block_out_channels", [10**9, 10**9]),
            ("block_out_channels", [2**20, 2**20]),
            ("block_out_channels", [8] * 100_000),
            ("layers_per_block", 10**8),
            ("layers_per_block", 1e300),
            ("sample_size", 10**7),
            ("num_class_embeds", 10**7),
            ("norm_num_groups", 3),
            ("down_block_types", ["DownBlock2D"]),
            ("down_block_types", ["os.system", "DownBlock2D"]),
            ("act_fn", "exec"),
            ("in_channels", "3"),
            ("quantization_config", {"quant_method": "torchao"}),
        ],
    )
    def test_absurd(self, unet, refuses, key, value):
        changed(unet / "unet" / "config.json", **{key: value})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with refuses("the component unet .* cannot be loaded"):
            load(unet)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * (1 if sys.platform == "darwin" else 1024) < 256 * 2**20

    def test_absurd_text_encoder(self, sd, refuses):
        for key, value in (("num_hidden_layers", 10**6), ("vocab_size", 2**24), ("hidden_size", 2**16)):
            original = (sd / "text_encoder" / "config.json").read_text()
            changed(sd / "text_encoder" / "config.json", **{key: value})
            with refuses("the component text_encoder .* cannot be loaded"):
                load(sd)
            (sd / "text_encoder" / "config.json").write_text(original)

    def test_a_tokenizer_that_pads_without_end(self, sd):
        changed(sd / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
        assert load(sd).conditions([{"prompt": "cat"}], torch.device("cpu"))["embedding"].shape == (1, 20, 16)

    @pytest.mark.parametrize("text", ["", "[]", "3", "{", "nul", "[" * 100_000, "\xff\xfe", '{"a": 1'])
    @pytest.mark.parametrize(
        "name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
    )
    def test_no_object(self, unet, refuses, name, text):
        (unet / name).write_bytes(text.encode("latin-1"))
        with refuses("is not a JSON object"):
            load(unet)

    def test_long(self, unet, refuses):
        (unet / "unet" / "config.json").write_text('{"a": "' + "x" * 5 * 2**20 + '"}')
        with refuses("accepted: 4 MiB of JSON"):
            load(unet)

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000; accepted"),
            ({"num_train_timesteps": -3}, "num_train_timesteps is -3; accepted"),
            ({"num_train_timesteps": "many"}, "num_train_timesteps is 'many'; accepted"),
            ({"beta_schedule": "exec"}, "beta_schedule is 'exec'; accepted: linear"),
            ({"beta_end": 2.0}, "beta_end is 2.0; accepted"),
            ({"trained_betas": "file"}, "trained_betas is not an array"),
            ({"trained_betas": [[0.1]]}, "trained_betas has shape"),
            ({"prediction_type": ["epsilon"]}, "prediction_type is"),
            ({"timestep_spacing": "odd"}, "timestep_spacing is 'odd'; accepted: linspace"),
            ({"rescale_betas_zero_snr": True}, "prediction_type is 'epsilon', but rescale_betas_zero_snr"),
        ],
    )
    def test_schedulers(self, unet, refuses, setting, said):
        with refuses(said):
            load(unet, scheduler=setting)
        changed(unet / "scheduler" / "scheduler_config.json", **setting)
        with refuses(said):
            load(unet)

    @pytest.mark.parametrize(
        "kind", ["EDMEulerScheduler", "LCMScheduler", "Mine", "FlowMatchEulerDiscreteScheduler"]
    )
    def test_other_schedulers(self, unet, refuses, kind):
        changed(unet / "model_index.json", scheduler=["diffusers", kind])
        with refuses(f"the scheduler is '{kind}'"):
            load(unet)


ODD = st.sampled_from(
    [None, True, -1, 0, 3, 64, 1.5, 1e308, "", "x", [], [1], [8, "x"], [[]], {}, {"a": [1]}]
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    part=st.sampled_from(["unet", "vae", "text_encoder", "scheduler", "tokenizer", ""]),
    which=st.integers(0, 1000),
    value=ODD,
)
def test_any_setting_may_be_odd(saved_sd, refuses, part, which, value):
    """One entry of one file replaced: the pipeline loads, or one sentence says why not."""
    names = {
        "": "model_index.json",
        "scheduler": "scheduler_config.json",
        "tokenizer": "tokenizer_config.json",
    }
    file = saved_sd / part / names.get(part, "config.json")
    original = file.read_text()
    content = json.loads(original)
    keys = sorted(content)
    try:
        changed(file, **{keys[which % len(keys)]: value})
        load(saved_sd)
    except TurningpointError:
        with refuses("."):
            raise
    finally:
        file.write_text(original)


class TestFolders:
    @pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
    def test_missing_parts(self, sd, refuses, part):
        (sd / part).rename(sd / "gone")
        with refuses(f"the component {part} of .* is missing: there is no such folder"):
            load(sd)

    @pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "text_encoder"])
    def test_parts_without_a_class(self, sd, refuses, part):
        changed(sd / "model_index.json", **{part: [None, None]})
        with refuses(f"the component {part} of"):
            load(sd)

    def test_files_of_a_part(self, sd, refuses):
        (sd / "vae" / "config.json").unlink()
        with refuses("vae/config.json' is missing"):
            load(sd)

    def test_a_tokenizers_files(self, sd, refuses):
        for file in (sd / "tokenizer").iterdir():
            file.unlink()
        with refuses("the component tokenizer"):
            load(sd)

    def test_no_pipeline(self, tmp_path, refuses):
        with refuses("has no model_index.json, and no config.json of a network"):
            load(tmp_path)
        (tmp_path / "file").touch()
        with refuses("which is a file; accepted: the folder of a pipeline"):
            load(tmp_path / "file")

    def test_subfolders(self, unet, refuses):
        for inner in ("nowhere", "..", "../..", "/etc"):
            with refuses("subfolder is"):
                load(unet, subfolder=inner)

    def test_wrong_parts(self, sd, refuses, tmp_path):
        tiny_sdxl(tmp_path / "xl")
        tiny_dit(tmp_path / "dit", labels=3)
        changed(tmp_path / "xl" / "model_index.json", _class_name="StableDiffusionPipeline")
        with refuses("addition_embed_type = 'text_time'"):
            load(tmp_path / "xl")
        changed(sd / "unet" / "config.json", time_cond_proj_dim=4)
        with refuses("the component unet"):
            load(sd)
        changed(tmp_path / "dit" / "model_index.json", _class_name="DDPMPipeline")
        with refuses("the component unet of .* is missing"):
            load(tmp_path / "dit")

    def test_settings(self, unet, sd, refuses):
        for options, said in (
            ({"colour": 3}, "colour is given, but diffusers: takes no such setting"),
            ({"scheduler": {"colour": 3}}, "colour is given, but a DDPMScheduler takes no such setting"),
            ({"scheduler": "Mine"}, "scheduler is 'Mine'; accepted"),
            ({"scheduler": "{1"}, "scheduler is '{1'; accepted"),
            ({"dtype": "int8"}, "dtype is 'int8'; accepted"),
            ({"device": "moon"}, "device is 'moon'; accepted"),
            ({"negative_prompt": 3}, "negative_prompt is 3; accepted: a text"),
            ({"height": 0}, "height is 0"),
            ({"clip_sample": "perhaps"}, "clip_sample is 'perhaps'; accepted: True or False"),
            ({"steps_offset": "far"}, "steps_offset is 'far'; accepted: a number"),
            ({"thresholding": True}, "thresholding is True; accepted: False"),
        ):
            with refuses(said):
                load(unet, **options)
        with refuses("null_label is given, but a StableDiffusionPipeline takes no such setting"):
            load(sd, null_label=3)

    def test_without_transformers(self, sd, refuses, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with refuses("it needs transformers, which is not installed: pip install 'turningpoint.text.'"):
            load(sd)


class TestHub:
    def test_nowhere(self, refuses, monkeypatch, tmp_path):
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: 1 / 0)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        for where in ("nobody/nothing-at-all", "a/b/c", "../somewhere/else", "-x/y", ""):
            with refuses("which is neither a folder nor a repository of the hub that can be reached"):
                load(where)

    def test_fetches_what_is_needed_and_no_code(self, unet, monkeypatch):
        import huggingface_hub

        (unet / "mine.py").touch()
        names = sorted(str(file.relative_to(unet)) for file in unet.rglob("*") if file.is_file())
        names += ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"]
        asked = {}

        info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

        def snapshot(where, revision=None, allow_patterns=None, **_):
            asked.update(where=where, revision=revision, files=allow_patterns)
            return str(unet)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_download", lambda *_, **__: str(unet / "model_index.json")
        )
        assert tp.load("diffusers:someone/tiny?revision=v1").shape == (3, 8, 8)
        assert (asked["where"], asked["revision"]) == ("someone/tiny", "v1")
        assert sorted(asked["files"]) == [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ]

    def test_which_files(self):
        names = [
            f"unet/diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin")
        ]
        names += [
            "vae/diffusion_pytorch_model.bin",
            "unet/x.py",
            "v1.safetensors",
            "text_encoder/model.safetensors",
        ]
        names += ["tokenizer/merges.txt", "tokenizer_2/spiece.model", "unet/config.json"]
        parts = ["unet", "vae", "tokenizer", "tokenizer_2"]
        assert wanted_files(names, parts, "fp16") == [
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.bin",
            "tokenizer/merges.txt",
            "tokenizer_2/spiece.model",
        ]
        inside = wanted_files([f"a/{name}" for name in names], ["unet"], None, "a/")
        assert inside == ["a/unet/config.json", "a/unet/diffusion_pytorch_model.safetensors"]
        assert hub.HUB_ID.fullmatch("stabilityai/sd-2.1")
