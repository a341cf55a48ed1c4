"""Settings: typed by their field, and misspelt, out of range or against each other an error."""

import os
import re

import pytest

from configs import base
from helpers.job_files import MS1MV3_R50, load, write_job
from utils.config import get_config, verification_files
from utils.run_info import ROOT


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("batch_size=64", "batch_size", 64),
        ("lr=0.05", "lr", 0.05),
        ("lr=1", "lr", 1.0),
        ("lr=1e-3", "lr", 1e-3),
        ("resume=true", "resume", True),
        ("resume=False", "resume", False),
        ("timeout_minutes=0.5", "timeout_minutes", 0.5),
        ("tensorboard=false", "tensorboard", False),
        ("network=r18", "network", "r18"),
        ("network='r18'", "network", "r18"),
        ("num_steps=None", "num_steps", None),
        ("num_steps=none", "num_steps", None),
        ("num_steps=7", "num_steps", 7),
        ("loss_args.m=0.4", "loss_args", {"m": 0.4}),
        (
            "loss_args={m: 0.4, gradient: straight_through}",
            "loss_args",
            {"m": 0.4, "gradient": "straight_through"},
        ),
        ("network_args.blocks=[1,2,2,1]", "network_args", {"blocks": (1, 2, 2, 1)}),
        ("network_args.deep.er=true", "network_args", {"deep": {"er": True}}),
        ("rec=/a", "rec", "/a"),
        ("rec=/with, comma", "rec", "/with, comma"),
        ("rec=[/a,/b]", "rec", ("/a", "/b")),
        ("rec=['/a, b', \"/c\"]", "rec", ("/a, b", "/c")),
        ("val_targets=[]", "val_targets", ()),
        ("val_targets=/v/lfw.bin", "val_targets", ("/v/lfw.bin",)),
        ("val_targets=/v/lfw.bin,/v/cfp_fp.bin", "val_targets", ("/v/lfw.bin", "/v/cfp_fp.bin")),
        ("regularizers=[ndr]", "regularizers", (("ndr", {}),)),
        ("regularizers=[{name:ndr,weight:5}]", "regularizers", (("ndr", {"weight": 5}),)),
        ("regularizers=[(ndr,{weight:5}),disc]", "regularizers", (("ndr", {"weight": 5}), ("disc", {}))),
        ("precision=bf16", "precision", "bf16"),
        ("warmup_epoch=0.5", "warmup_epoch", 0.5),
    ],
)
def test_an_override_is_typed_by_its_setting(override, key, value):
    got = load(override)[key]
    assert got == value
    assert type(got) is type(value) or isinstance(value, dict)


def test_paths_of_weights_are_seen_from_where_they_are_written_and_words_are_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load("pretrained=a.pt", "teacher=~/b.pt", "init_head=class_means")
    assert cfg.pretrained == str(tmp_path / "a.pt")
    assert cfg.teacher == os.path.expanduser("~/b.pt")
    assert cfg.init_head == "class_means"
    same = load("pretrained=a.pt", "teacher=pretrained", "input_order=BGR")
    assert (same.teacher, same.distillation) == (same.pretrained, {"input_order": "BGR"})
    with pytest.raises(ValueError, match="teacher='pretrained', but pretrained is not set"):
        load("teacher=pretrained")
    assert load("init_head=c.npy").init_head == str(tmp_path / "c.npy")
    path = write_job(tmp_path, MS1MV3_R50 + "config.pretrained = 'data/a.pt'\n")
    assert get_config(path).pretrained == str(ROOT / "data/a.pt")


def test_resume_is_a_word_or_true_or_false():
    assert load("resume=auto", "save_all_states=true").resume == "auto"
    assert load("resume='auto'", "save_all_states=true").resume == "auto"
    assert load("resume=TRUE").resume is True


def test_an_override_of_a_part_keeps_the_other_parts(tmp_path):
    path = write_job(
        tmp_path,
        MS1MV3_R50 + "config.margin_list = None\nconfig.loss = 'cosface'\nconfig.loss_args = {'s': 32}\n",
    )
    assert get_config(path, ["loss_args.m=0.2"]).loss_args == {"s": 32, "m": 0.2}


def test_later_overrides_win():
    assert load("lr=1", "lr=2").lr == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lerning=1", "unknown setting 'lerning'"),
        ("batchsize=1", "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ("lss_args.m=1", "unknown setting 'lss_args'; did you mean 'loss_args'?"),
        ("--lr=1", "unknown setting '--lr'; did you mean 'lr'?"),
        ("resume", "override 'resume': allowed is key=value"),
        ("lr.x=1", "lr has no parts"),
        ("loss_args.m.x=1 loss_args.m.x.y=2", "x=1 has no parts"),
        ("lr=fast", "lr='fast': allowed is a number in (0, inf)"),
        ("lr=nan", "lr=nan: allowed is a number in (0, inf)"),
        ("lr=inf", "lr=inf: allowed is"),
        ("lr=0", "lr=0: allowed is"),
        ("lr=true", "lr=True: allowed is a number"),
        ("lr=None", "lr=None: allowed is a number"),
        ("batch_size=0", "batch_size=0: allowed is an integer in [1, inf)"),
        ("global_batch=0", "global_batch=0: allowed is an integer in [1, inf) or None"),
        ("sync_bn=1", "sync_bn=1: allowed is true or false"),
        ("input_order=rgb", "input_order='rgb': allowed is 'RGB' or 'BGR' or None"),
        ("layer_decay=0", "layer_decay=0: allowed is a number in (0, 1]"),
        ("lr_backbone=0", "lr_backbone=0: allowed is a number in (0, inf) or None"),
        ("patience=-1", "patience=-1: allowed is an integer in [0, inf)"),
        (
            "on_bad_record=skipp",
            "on_bad_record='skipp': allowed is 'error' or 'skip'; did you mean 'skip'?",
        ),
        ("batch_size=1.5", "batch_size=1.5: allowed is an integer"),
        ("sample_rate=-0.1", "sample_rate=-0.1: allowed is a number in [0, 1]"),
        ("sample_rate=1.01", "sample_rate=1.01: allowed is a number in [0, 1]"),
        ("aroface={} batch_size=2", "of 2 images at ratio=0.75 none is warped"),
        ("aroface={ratio:0.9} global_batch=8 gradient_acc=2", "of 4 images at ratio=0.9 none is warped"),
        ("flip_prob=-0.1", "flip_prob=-0.1: allowed is a number in [0, 1]"),
        ("crop_prob=2", "crop_prob=2: allowed is a number in [0, 1]"),
        ("momentum=1", "momentum=1: allowed is a number in [0, 1)"),
        ("warmup_epoch=-2", "warmup_epoch=-2: allowed is a number in [0, inf)"),
        ("optimizer=sdg", "optimizer='sdg': allowed is 'sgd' or 'adamw'; did you mean 'sgd'?"),
        (
            "precision=f16",
            "precision='f16': allowed is 'fp32' or 'bf16' or 'fp16' or 'auto' or None; did you mean 'fp16'?",
        ),
        ("engine=strem", "did you mean 'stream'?"),
        ("kernels=on", "kernels='on': allowed is true or false or 'auto'"),
        ("backbone_kernels=on", "backbone_kernels='on': allowed is true or false or 'auto'"),
        (
            "head_update=fussed",
            "head_update='fussed': allowed is 'optimizer' or 'fused'; did you mean 'fused'?",
        ),
        ("head_momentum=fp16", "head_momentum='fp16': allowed is 'fp32' or 'bf16'"),
        ("sampled_update=sparce", "did you mean 'sparse'?"),
        ("scheduler=polly", "did you mean 'poly'?"),
        ("resume=yes", "resume='yes': allowed is true or false"),
        ("resume=1", "resume=1: allowed is true or false or 'auto'"),
        ("resume=atuo", "did you mean 'auto'?"),
        ("resume=auto save_all_states=false", "resume='auto' would always start anew"),
        ("timeout_minutes=0", "timeout_minutes=0: allowed is a number in (0, 10000]"),
        ("network=", "network='': allowed is text"),
        ("loss_args=0.4", "loss_args=0.4: allowed is a dict"),
        ("margin_list=1,0.5", "margin_list=[1, 0.5]: allowed is 3 values (a number each) or None"),
        ("rec=[]", "rec is not set"),
        ("rec=None", "rec is not set"),
        ("regularizers=[{weight:5}]", "has no 'name'"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(*override.split(" "))


def test_another_loss_drops_what_the_file_sets_for_its_own_and_keeps_what_the_command_line_says():
    assert get_config("demo", ["loss=adaface"]).loss_args == {}
    assert get_config("demo", ["loss_args.m=0.3", "loss=adaface"]).loss_args == {"m": 0.3}
    assert get_config("demo", ["loss=cosface", "loss_args.m=0.3"]).loss_args == {"s": 32, "m": 0.3}
    assert get_config("demo", ["loss=adaface"]).loss == "adaface"


def test_another_network_drops_the_arguments_of_the_file_s_own():
    assert get_config("demo", ["network=mbf_large"]).network_args == {}
    assert get_config("demo", ["network_args.scale=2", "network=mbf_large"]).network_args == {"scale": 2}
    assert get_config("demo", ["network=mbf"]).network_args == get_config("demo").network_args


def test_another_loss_drops_the_margins_of_an_insightface_config(tmp_path):
    path = write_job(tmp_path, MS1MV3_R50)
    margins = get_config(path).loss_args["margin_list"]
    assert get_config(path, ["loss=adaface"]).loss_args == {}
    assert get_config(path, ["loss=combined"]).loss_args["margin_list"] == margins


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = write_job(tmp_path, MS1MV3_R50 + "config.nettwork = 'r18'\n")
    with pytest.raises(ValueError, match=r"job\.py: unknown setting 'nettwork'; did you mean 'network'\?"):
        get_config(path)


# ---------------------------------------------------------------- settings together


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("fp16=false precision=fp16", "fp16=False and precision='fp16' contradict"),
        ("network_args.dropout=0.2", "network_args.dropout is no argument of the network here: set dropout"),
        ("network_args.fp16=true", "set precision"),
        ("fp16=true precision=bf16", "fp16=True and precision='bf16' contradict"),
        ("fp16=true precision=fp32", "fp16=True and precision='fp32' contradict"),
        (
            "loss=arcface margin_list=1,0.5,0",
            "margin_list=[1.0, 0.5, 0.0] would be ignored: it counts only with loss",
        ),
        (
            "loss=cosface interclass_filtering_threshold=.4",
            "interclass_filtering_threshold=0.4 would be ignored",
        ),
        (
            "margin_list=1,.5,0 loss_args.margin_list=[1,0,.4]",
            "margin_list and loss_args.margin_list are both given",
        ),
        (
            "milestones=1,2",
            "milestones=[1.0, 2.0] would be ignored: it counts only with scheduler='multistep'",
        ),
        ("lr_decay=.5", "lr_decay=0.5 would be ignored"),
        ("scheduler=cosine poly_power=2", "poly_power=2.0 would be ignored"),
        ("engine=dense chunk_size=5", "chunk_size=5 would be ignored"),
        ("engine=dense kernels=true", "kernels=True would be ignored"),
        ("filter_gradients=true", "filter_gradients=True would be ignored: it counts only with kernels=True"),
        ("head_update=fused sample_rate=0.5", "sample_rate=0.5 does not go with head_update='fused'"),
        ("head_update=fused engine=dense", "engine='dense' does not go with head_update='fused'"),
        ("head_update=fused kernels=true", "kernels=True does not go with head_update='fused'"),
        ("head_update=fused gradient_acc=2", "gradient_acc=2 does not go with head_update='fused'"),
        ("head_update=fused fp16=true", "precision='fp16' does not go with head_update='fused': allowed is"),
        (
            "head_update=fused freeze=[head] init_head=a.npy pretrained=b.pt",
            "head_update='fused' would be ignored: freeze=['head'] keeps the class centres",
        ),
        (
            "head_momentum=bf16",
            "head_momentum='bf16' would be ignored: it counts only with head_update='fused'",
        ),
        ("sampled_update=dense", "sampled_update='dense' counts only with sample_rate < 1"),
        ("scheduler=multistep milestones=3,2", "milestones=[3.0, 2.0]: allowed are rising epochs"),
        ("num_steps=None num_epoch=2 warmup_epoch=3", "warmup_epoch=3.0: allowed is up to num_epoch=2"),
        ("global_batch=10 gradient_acc=4", "global_batch=10: allowed is a multiple of gradient_acc=4"),
        ("num_classes=None", "rec='synthetic' needs num_classes"),
        ("lora={}", "lora={} would be ignored or senseless: it counts only with pretrained"),
        ("freeze_bn=true", "freeze_bn=True would be ignored or senseless: it counts only with pretrained"),
        ("head_warmup_epoch=1", "head_warmup_epoch=1.0 would be ignored or senseless"),
        ("distillation={weight:2}", "it counts only with teacher"),
        ("keep_best=true", "keep_best=True would be ignored or senseless: it counts only with val_targets"),
        ("patience=2", "patience=2 would be ignored or senseless: it counts only with val_targets"),
        ("patience=2 val_targets=/a/lfw.bin verbose=0", "patience=2 counts verifications on the way"),
        ("freeze=[layer1]", "freeze=['layer1'] would keep random weights: it counts only with pretrained"),
        ("freeze=[head]", "freeze=['head'] would keep random class centres"),
        (
            "freeze=[head] init_head=a.npy pretrained=b.pt head_warmup_epoch=1",
            "head_warmup_epoch lets the class centres learn alone, but freeze=['head'] keeps them",
        ),
        ("init_head=class_means", "needs trained features: it counts only with pretrained or teacher"),
        ("pretrained=a.pt freeze_bn=true sync_bn=true", "sync_bn=True would be ignored"),
        ("pretrained=a.pt lora={} sync_bn=true", "sync_bn=True would be ignored"),
        ("compile=true sync_bn=true", "compile=True cannot compile a network with sync_bn=True"),
        ("compile=true grad_checkpointing=true", "cannot compile a network with grad_checkpointing=True"),
        ("backbone_kernels=true compile=true", "backbone_kernels=True would be ignored with compile=True"),
        ("backbone_kernels=true channels_last=true sync_bn=true", "would be ignored with sync_bn=True"),
        ("backbone_kernels=true channels_last=false", "would be ignored with channels_last=False"),
        ("num_image=None", "rec='synthetic' needs num_image"),
        ("val_targets=[lfw]", "rec='synthetic' has no folder to look in: give val_root"),
        ("val_targets=/a/lfw.bin,/b/lfw.bin", "'lfw' is there twice"),
    ],
)
def test_settings_that_do_not_go_together_are_an_error(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load("precision=None", *overrides.split(" "))


def test_precision_and_fp16_agree_after_loading():
    assert (load("precision=None", "fp16=true").precision, load("precision=fp16").fp16) == ("fp16", True)
    assert (load("precision=None").precision, load("precision=bf16").fp16) == ("fp32", False)


def test_relative_paths_start_at_the_repository_in_files_and_at_the_current_directory_in_overrides(
    tmp_path, monkeypatch
):
    path = write_job(
        tmp_path, "config = dict(rec='data/a', output='runs/a', val_targets=['lfw', 'sets/x.bin'])"
    )
    monkeypatch.chdir(tmp_path)
    cfg = get_config(path)
    assert (cfg.rec, cfg.output) == (f"{ROOT}/data/a", f"{ROOT}/runs/a")
    assert cfg.val_targets == (f"{ROOT}/data/a/lfw.bin", f"{ROOT}/sets/x.bin")
    (tmp_path / "x.bin").touch()
    cfg = get_config(path, ["rec=[here,~/there]", "output=../out", "val_targets=lfw,x.bin,y.bin"])
    assert cfg.rec == (f"{tmp_path}/here", os.path.expanduser("~/there"))
    assert cfg.output == str(tmp_path.parent / "out")
    in_root = [f"{tmp_path}/here/{name}.bin" for name in ("lfw", "y")]  # y.bin is no file here: it is a name
    assert cfg.val_targets == (in_root[0], f"{tmp_path}/x.bin", in_root[1])
    assert get_config(path, ["val_root=elsewhere"]).val_targets[0] == f"{tmp_path}/elsewhere/lfw.bin"


def test_a_missing_verification_set_names_the_near_miss(tmp_path):
    (tmp_path / "agedb_30.bin").touch()
    assert list(verification_files(load(f"val_root={tmp_path}", "val_targets=agedb_30"))) == ["agedb_30"]
    with pytest.raises(FileNotFoundError, match=r"'.*/agedb30\.bin' does not exist; did you mean 'agedb_30'"):
        verification_files(load(f"val_root={tmp_path}", "val_targets=agedb30"))


# ---------------------------------------------------------------- none is ignored


def test_every_setting_is_used_by_the_code_or_turned_into_another():
    """A setting that is declared, checked and printed, but never read, would be silently ignored."""
    folders = [ROOT / name for name in ("backbones", "loading", "ranks", "reports", "training", "utils")]
    sources = [ROOT / "train_v2.py", ROOT / "dataset.py", *(f for d in folders for f in d.rglob("*.py"))]
    code = "\n".join(source.read_text() for source in sources)
    used = set(re.findall(r"\bcfg(?:\.|\[\")([a-z]\w*)", code))
    turned_into = {
        "val_root": "val_targets",
        "fp16": "precision",
        "margin_list": "loss_args",
        "interclass_filtering_threshold": "loss_args",
    }
    assert set(turned_into.values()) <= used
    assert set(base.config) - set(base.INSIGHTFACE_ONLY) - used == set(turned_into)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("num_steps=5 num_epoch=3", "num_steps=5 decides, not num_epoch=3"),
        ("num_steps=5", None),
        ("verbose=100 val_targets=[]", "verbose=100 has no val_targets to verify on"),
        ("verbose=0 val_targets=[]", None),
        ("num_steps=None num_epoch=3 scheduler=multistep milestones=1,3,4", "3.0, 4.0. are not"),
        ("num_steps=None num_epoch=5 scheduler=multistep milestones=1,3,4", None),
    ],
)
def test_what_decides_nothing_beside_other_settings_is_told(overrides, words):
    told = load(*overrides.split()).warnings
    assert [bool(re.search(words or "", text)) for text in told] == ([True] if words else [])


def test_the_verification_sets_lie_beside_the_rec_file():
    assert load("rec=/data/ms1m/train.rec", "val_targets=lfw").val_targets == ("/data/ms1m/lfw.bin",)
