"""Classifiers out of files that run nothing, ONNX graphs and folders of transformers, and out of programs."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from plain_classifier import RGB, Net

from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures._classifiers._preprocessing import Steps, pixels

# ---- ONNX


def onnx_file(path, shape=("B", 3, 24, 24), metadata=None, last=False):
    """`Net` as a graph made by hand, whose pictures have channels last if asked."""
    net = Net()
    names = {"w1": net.features[0].weight, "b1": net.features[0].bias, "w2": net.features[2].weight}
    names |= {"b2": net.features[2].bias, "w3": net.head.weight, "b3": net.head.bias}
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last else []
    nodes += [
        helper.make_node("Conv", ["t" if last else "x", "w1", "b1"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    if last:
        shape = (shape[0], *shape[2:], shape[1])
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 4))],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in names.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", ["B", 1, 2])
def test_an_onnx_graph_equals_the_network_in_torch(tmp_path, batch, last):
    found = image_classifier(onnx_file(tmp_path / "net.onnx", (batch, 3, 24, 24), last=last), device="cpu")
    prepared = found.prepare(RGB)
    assert prepared.shape == (5, 3, 24, 24)
    assert found.module is None
    with torch.no_grad():
        torch.testing.assert_close(found(prepared), Net()(prepared), rtol=1e-5, atol=1e-5)


def test_an_onnx_graph_of_any_size_takes_images_as_they_are(tmp_path):
    where = onnx_file(tmp_path / "net.onnx", ("B", 3, "H", "W"))
    assert image_classifier(where).prepare(RGB).shape == RGB.shape
    assert image_classifier(f"{where}?size=16,12&resize=20&std=0.5").prepare(RGB).shape == (5, 3, 16, 12)
    assert image_classifier(str(tmp_path / "net.onnx")).name == "onnx:net.onnx"


def test_metadata_of_an_onnx_graph_is_used_unless_told_otherwise(tmp_path):
    told = {
        "mean": "[0.5, 0.5, 0.5]",
        "std": "0.25",
        "resize": "24",
        "names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}",
    }
    where = onnx_file(tmp_path / "net.onnx", metadata=told)
    found = image_classifier(where)
    assert found.classes == ("a", "b", "c", "d")
    assert torch.equal(found.prepare(RGB), Steps.given(24, 24, 0.5, 0.25)(RGB))
    assert torch.equal(image_classifier(f"{where}?std=1").prepare(RGB), Steps.given(24, 24, 0.5, 1)(RGB))


def test_onnx_files_are_known_by_their_weights(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    one = image_classifier(onnx_file(first / "net.onnx")).settings()
    assert one == image_classifier(onnx_file(second / "net.onnx")).settings()
    other = image_classifier(onnx_file(second / "net.onnx", metadata={"note": "x"})).settings()
    assert one["weights"] != other["weights"]


def test_onnx_says_what_is_wrong(tmp_path, refuses):
    with refuses("no such file"):
        image_classifier(f"onnx:{tmp_path}/none.onnx")
    (tmp_path / "text.onnx").write_text("Hello. There is no graph.")
    with refuses("cannot be read"):
        image_classifier(f"onnx:{tmp_path}/text.onnx")
    with refuses("size is 32 .*accepted: 24,24"):
        image_classifier(onnx_file(tmp_path / "net.onnx") + "?size=32")
    vectors = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "vectors",
        [helper.make_tensor_value_info("x", TensorProto.INT64, (1, 5))],
        [helper.make_tensor_value_info("y", TensorProto.INT64, (1, 5))],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(vectors, opset_imports=opset, ir_version=9), tmp_path / "v.onnx")
    with refuses("takes tensor\\(int64\\) .*accepted: one batch of pictures"):
        image_classifier(f"onnx:{tmp_path}/v.onnx")


# ---- programs


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    net = Net().eval()
    torch.jit.trace(net, torch.zeros(1, 3, 24, 24)).save(folder / "net.ts")
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 24, 24),)), folder / "fixed.pt2")
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    free = torch.export.export(net, (torch.zeros(2, 3, 24, 24),), dynamic_shapes=(batch,))
    torch.export.save(free, folder / "free.pt2")
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder


@pytest.mark.parametrize("name", ["net.ts", "fixed.pt2", "free.pt2"])
def test_programs_run_only_if_they_are_trusted(programs, name, refuses, monkeypatch):
    with monkeypatch.context() as patch:
        for place, function in ((torch.jit, "load"), (torch.export, "load")):
            patch.setattr(place, function, lambda *_, **__: pytest.fail("the program was opened"))
        with refuses("is a program, .*--trust-program"):
            image_classifier(f"program:{programs}/{name}")
    found = image_classifier(f"program:{programs}/{name}?resize=24&size=24", trust_program=True, device="cpu")
    prepared = found.prepare(RGB)
    assert found.module is None
    with torch.no_grad():
        torch.testing.assert_close(found(prepared), Net()(prepared), rtol=1e-5, atol=1e-5)


def test_exported_programs_tell_their_size_and_scripts_do_not(programs):
    assert image_classifier(f"{programs}/fixed.pt2", trust_program="true").prepare(RGB).shape[2:] == (24, 24)
    assert image_classifier(f"program:{programs}/net.ts", trust_program=True).prepare(RGB).shape == RGB.shape


def test_files_that_are_no_programs(programs, refuses):
    with refuses("holds no program"):
        image_classifier(f"program:{programs}/weights.pt", trust_program=True)
    with refuses("size is 9 .*accepted: 24,24"):
        image_classifier(f"program:{programs}/fixed.pt2?size=9", trust_program=True)


# ---- transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny ViT and a tiny ConvNeXt with their processors, as transformers saves them."""
    import transformers as hf

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("transformers")
    names = {"id2label": {0: "dog", 1: "cat", 2: "cow"}, "label2id": {"dog": 0, "cat": 1, "cow": 2}}
    vit = hf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        **names,
    )
    convnext = hf.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 2, 1], **names)
    hf.ViTForImageClassification(vit).save_pretrained(root / "vit")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    hf.ConvNextForImageClassification(convnext).save_pretrained(root / "convnext")
    hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(root / "convnext")
    return root


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_transformers_prepare_as_their_own_processor(folders, name):
    import transformers as hf

    found = image_classifier(f"transformers:{folders / name}", device="cpu")
    processor = hf.AutoImageProcessor.from_pretrained(folders / name, backend="pil")
    wanted = processor(images=[Image.fromarray(u) for u in pixels(RGB)], return_tensors="pt")["pixel_values"]
    assert torch.equal(found.prepare(RGB), wanted)
    own = hf.AutoModelForImageClassification.from_pretrained(folders / name).eval()
    with torch.no_grad():
        assert torch.equal(found(found.prepare(RGB)), own(wanted).logits)
    assert found.classes == ("dog", "cat", "cow")
    assert image_classifier(folders / name).settings() == found.settings()


def test_transformers_networks_are_looked_at_block_by_block(folders):
    vit = image_classifier(f"transformers:{folders}/vit")
    assert len(vit.layers) == 3
    assert vit.layers[-1] == "classifier"
    convnext = image_classifier(f"transformers:{folders}/convnext")
    assert len(convnext.layers) == 6
    assert all(
        type(convnext.module.get_submodule(one)).__name__ == "ConvNextLayer" for one in convnext.layers[:-1]
    )


def test_a_pickle_of_transformers_is_read_as_data(folders, tmp_path, refuses):
    import shutil

    from safetensors.torch import load_file

    copy = tmp_path / "vit"
    shutil.copytree(folders / "vit", copy)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    found, wanted = image_classifier(f"transformers:{copy}"), image_classifier(f"transformers:{folders}/vit")
    assert torch.equal(found(found.prepare(RGB)), wanted(wanted.prepare(RGB)))
    state = load_file(folders / "vit" / "model.safetensors")
    torch.save({**state, "x": Net()}, copy / "pytorch_model.bin")
    with refuses("cannot be read: its weights"):
        image_classifier(f"transformers:{copy}")


def test_transformers_without_a_trained_head_are_refused(folders, tmp_path, refuses):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "vit"
    shutil.copytree(folders / "vit", copy)
    state = load_file(copy / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "classifier" not in k},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    with refuses("its weights lack 2 tensors, the first 'classifier.bias'"):
        image_classifier(f"transformers:{copy}")
    (copy / "preprocessor_config.json").unlink()
    with refuses("its image processor"):
        image_classifier(f"transformers:{copy}")
    with refuses("neither a folder nor"):
        image_classifier("transformers:./nowhere/at/all")
