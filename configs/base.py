"""Every setting of train_v2.py with its type, unit and default; a job config names only what differs.

A job config is a Python module with an EasyDict `config`, as in insightface, whose own files load here too:

    from easydict import EasyDict as edict
    config = edict()
    config.network = "r100"

One that builds on another preset changes a copy of it:

    from copy import deepcopy
    from configs.casia_r50 import config as parent
    config = deepcopy(parent)
    config.lr = 0.2

On the command line `key=value` comes after the config's name and is typed by the setting:
`batch_size=64 resume=true loss_args.m=0.4 val_targets=[lfw,cfp_fp] output=None`. Another `loss=` or
`network=` there drops what the file sets for its own, see BELONGS_TO.

Relative paths in a config file start at the repository root, so that a preset works from any directory;
those on the command line start at the current directory. utils/config.py loads, checks and freezes.
"""

from copy import deepcopy
from typing import Annotated, Literal

from easydict import EasyDict as edict

Count = Annotated[int, "[1, inf)"]
CountOrZero = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
PositiveOrZero = Annotated[float, "[0, inf)"]
Probability = Annotated[float, "[0, 1]"]
BelowOne = Annotated[float, "[0, 1)"]


class Settings:
    """The settings in the order in which they are printed. Where None is allowed, it says what None means."""

    # ---- run ----
    # Folder of the run's files: log, metrics, checkpoints, model. None: work_dirs/<name of the config>
    # of this repository, wherever it is called from.
    output: str | None = None
    # Continue from the newest checkpoint in `output`; an error where there is none. "auto": start where there
    # is none, for torchrun's --max-restarts and for schedulers that start a stopped job again.
    resume: bool | Literal["auto"] = False
    # Save checkpoints that a run can be resumed from (optimiser, step, class centres), not only the model.
    save_all_states: bool = True
    # Steps after which model and checkpoint are saved again. 0: once an epoch. The last step always saves.
    checkpoint_every: CountOrZero = 0
    # Minutes after which a wait for another rank ends the run. None: 30.
    timeout_minutes: Annotated[float, "(0, 10000]"] | None = None
    # Seed of everything random: initial weights, order of images, augmentation, sampled classes.
    seed: Annotated[int, "[0, 2147483647]"] = 2048
    # Steps between two log lines. Steps 1, 2, 5 and the last one have a line too.
    frequent: Count = 10
    # Steps between two comparisons of weights and states between the ranks, which also come after the first
    # step and before each save. 0: never, for machines of different kinds, which may round differently.
    check_ranks_every: CountOrZero = 1000
    # Steps between two verifications. 0: none on the way. There is always one at the end.
    verbose: CountOrZero = 2000
    # Write TensorBoard files beside metrics.jsonl.
    tensorboard: bool = True
    # Send numbers and pictures to Weights & Biases too; its package `wandb` has to be installed. Log in with
    # `wandb login`; a key has no place in a config.
    using_wandb: bool = False
    # The project there that the run belongs to. None: "lqface".
    wandb_project: str | None = None
    # Who the project belongs to, a user or a team. None: the user who is logged in.
    wandb_entity: str | None = None
    # Write report.html, a page about the run; it shows the faces of the data that the run finds hardest.
    report: bool = True

    # ---- data ----
    # Folder with train.rec and train.idx (or a .rec file), or with one sub-folder of images per identity, or
    # with .tar (webdataset), .parquet (Hugging Face) or .lmdb (Vec2Face+) files, or one such file; a list of
    # such, put one after another; or "synthetic": random images. It has to be given.
    rec: str | list[str] | None = None
    # Number of identities. None: counted in the data. Given: an upper limit. "synthetic" needs it.
    num_classes: Count | None = None
    # Number of images. None: counted in the data. Given: exactly that many. "synthetic" needs it.
    num_image: Count | None = None
    # Passes over the data.
    num_epoch: Count = 20
    # Optimiser steps in all, instead of num_epoch. None: num_epoch decides.
    num_steps: Count | None = None
    # Verification sets: names (with or without .bin), looked up in val_root, or paths of .bin files.
    val_targets: list[str] = []
    # Folder of the verification sets. None: the (first) folder of rec.
    val_root: str | None = None
    # Worker processes that decode images, per rank. 0: the training process decodes itself.
    num_workers: Annotated[int, "[0, 128]"] = 2
    # Images per rank, step and micro-batch (see gradient_acc); of a verification, per rank and forward pass.
    batch_size: Count = 128
    # Images in one optimiser step, on all ranks and in all micro-batches together, in place of batch_size: a
    # multiple of gradient_acc. The ranks share them out, the first ones may take one more. None: batch_size x
    # ranks x gradient_acc; a run that is resumed on another number of ranks keeps what it had.
    global_batch: Count | None = None
    # An image that cannot be read or decoded: "error" ends the run and names it; "skip" names it once and
    # takes another image in its place, the same one however often the run is resumed.
    on_bad_record: Literal["error", "skip"] = "error"
    # Probability that an image is mirrored.
    flip_prob: Probability = 0.5
    # Probability of AdaFace's crop: a random part stays at its place, the rest turns black.
    crop_prob: Probability = 0.0
    # Probability of AdaFace's low resolution: down to 20..100 % of the side and up again.
    low_res_prob: Probability = 0.0
    # Probability of AdaFace's photometric change: brightness, contrast, saturation, each by up to 50 %.
    photometric_prob: Probability = 0.0

    # ---- model ----
    # Name of the backbone; backbones.MODEL_NAMES has them all.
    network: str = "r50"
    # Number of features that describe a face.
    embedding_size: Count = 512
    # Probability that dropout before the last layer sets a value to zero.
    dropout: BelowOne = 0.0
    # Further arguments of this backbone's get_model(), by name.
    network_args: dict = {}
    # Recompute activations in the backward pass: less memory, about a third more time.
    grad_checkpointing: bool = False
    # BatchNorm normalises by the batch of all ranks, not by each rank's own; costs two collectives a layer.
    sync_bn: bool = False
    # Keep images and convolution weights in NHWC order. "auto": with networks of convolutions, in half
    # precision on a GPU, and on CPUs with AVX-512, where it was measured to be faster.
    channels_last: bool | Literal["auto"] = "auto"
    # Compile the backbone's training passes (torch.compile), which takes minutes at the start. Where it
    # fails, there is a warning, and the backbone runs as it is. Measured on a CPU alone, see performance.md.
    compile: bool = False
    # Run BatchNorm of the training passes, with PReLU and shortcuts, in GPU kernels (Triton); with
    # channels_last, and not with sync_bn, whose statistics are of all ranks. "auto": on cards where a
    # measurement in docs/performance.md shows that they are right and faster; there is none yet.
    backbone_kernels: bool | Literal["auto"] = "auto"

    # ---- start from trained weights ----
    # File of weights that the backbone starts from, in any layout that the evaluation reads. None: at random.
    pretrained: str | None = None
    # Order of the colour channels that the network sees: of `pretrained`, where the file does not say it, or
    # of a new network. None: that of the file, RGB without one.
    input_order: Literal["RGB", "BGR"] | None = None
    # What the class centres start from: "random"; "class_means": means of the teacher's features, or without
    # one of those of `pretrained`; or a file or folder of class centres, see docs/finetuning.md.
    init_head: str = "random"
    # Parts of the backbone that stay as they are, in evaluation mode: names of modules or parameters, * and ?
    # stand for any text and any character; "head" stands for the class centres.
    freeze: list[str] = []
    # BatchNorm normalises by the running statistics of `pretrained`, which stay.
    freeze_bn: bool = False
    # Learn low-rank additions to the weights, which stay: arguments of backbones.lora.add_lora by name (rank,
    # alpha, layers), {} for its defaults. None: learn the weights.
    lora: dict | None = None
    # Learning rate of the backbone, where `lr` is that of the class centres. None: lr.
    lr_backbone: Positive | None = None
    # Factor of the learning rate from each layer of the backbone to the one before it.
    layer_decay: Annotated[float, "(0, 1]"] = 1.0
    # Epochs at the start in which the class centres learn alone; fractions are allowed.
    head_warmup_epoch: PositiveOrZero = 0
    # File of a network whose features the backbone's are drawn to; "pretrained": the file of that setting.
    # None: no distillation.
    teacher: str | None = None
    # How: arguments of losses.distillation.Distillation by name (weight, low_res, sides; input_order of the
    # teacher, where its file does not say it).
    distillation: dict = {}
    # Save best.pt after each verification whose mean accuracy is the best so far.
    keep_best: bool = False
    # Verifications in a row without a better one, after which the run ends. 0: it does not.
    patience: CountOrZero = 0

    # ---- loss ----
    # Loss by name (losses.LOSSES). None: "combined" where margin_list is given, else "arcface".
    loss: str | None = None
    # Hyper-parameters of the loss, by name; those that are left out keep their paper's values.
    loss_args: dict = {}
    # insightface's (m1, m2, m3): factor of the angle, radians, cosine. Without `loss` it means what it means
    # there: "combined" with the straight-through gradient. None: not used.
    margin_list: tuple[float, float, float] | None = None
    # Other classes whose cosine exceeds this leave the softmax as probable label noise (only in "combined";
    # without `loss` as in insightface: their logit becomes 0). 0: off.
    interclass_filtering_threshold: BelowOne = 0.0
    # Terms added to the loss: names (losses.REGULARIZERS), pairs ("ndr", dict(weight=5)) of a name and
    # hyper-parameters, or dicts of both: dict(name="ndr", weight=5).
    regularizers: list[str | dict | tuple[str, dict]] = []
    # ARoFace: warp a share of each batch so that the loss rises most; hyper-parameters of
    # losses.aroface.AlignmentPerturbation by name, {} for its paper's. None: off.
    aroface: dict | None = None

    # ---- head ----
    # Share of the other classes that take part in a step. 1: all of them. 0: only those of the batch itself.
    sample_rate: Probability = 1.0
    # At sample_rate < 1, whether the centres that a step has not sampled stay ("sparse") or are moved by
    # weight decay and momentum ("dense", as in arcface_torch). None: "sparse", but "dense" in a config of
    # arcface_torch (margin_list without loss).
    sampled_update: Literal["sparse", "dense"] | None = None
    # "stream" never holds the matrix of logits; "dense" does, and is the reference.
    engine: Literal["stream", "dense"] = "stream"
    # Classes that "stream" looks at together. None: chosen from the memory at hand.
    chunk_size: Count | None = None
    # Whether "stream" runs in GPU kernels (Triton) instead of PyTorch's operations. "auto": on cards where a
    # measurement in docs/performance.md shows that they are right and faster; there is none yet.
    kernels: bool | Literal["auto"] = "auto"
    # With kernels=true: leave out of the backward pass the tiles of samples and classes whose probabilities
    # all lie below the precision of the products. Meant to be faster late in training; not exact.
    filter_gradients: bool = False
    # What moves the class centres: the optimiser, with their whole gradient in memory; or the backward pass
    # itself, chunk by chunk, which needs no memory for a gradient, and about a third more time.
    head_update: Literal["optimizer", "fused"] = "optimizer"
    # With head_update="fused": number format in which the momentum of the centres (AdamW: their first moment)
    # is kept between steps. "bf16" takes half the memory and rounds it.
    head_momentum: Literal["fp32", "bf16"] = "fp32"

    # ---- optimisation ----
    # Optimiser of backbone and class centres.
    optimizer: Literal["sgd", "adamw"] = "sgd"
    # Learning rate after the warm-up, for the whole global batch unless lr_reference_batch is given.
    lr: Positive = 0.1
    # Global batch that lr is meant for: lr is multiplied by global batch / this. None: lr is taken as it is.
    lr_reference_batch: Count | None = None
    # Momentum of SGD; the first beta of AdamW.
    momentum: BelowOne = 0.9
    # Weight decay (of SGD: added to the gradient; of AdamW: decoupled).
    weight_decay: PositiveOrZero = 5e-4
    # No weight decay on normalisation layers and biases. insightface's recipes decay everything.
    no_decay_norm_bias: bool = False
    # Micro-batches that make one optimiser step; see global_batch.
    gradient_acc: Count = 1
    # A step whose loss or gradient is not finite, on any rank, is skipped; after more than this many in a row
    # the run stops and says why. (float16 skips some on purpose, to find the scale of its loss.)
    max_skipped_steps: CountOrZero = 25
    # Largest norm of the backbone's gradient; longer ones are scaled down to it. 0: off.
    grad_clip: PositiveOrZero = 5.0
    # Course of the learning rate after the warm-up.
    scheduler: Literal["poly", "multistep", "cosine"] = "poly"
    # Exponent of "poly": lr x (1 - progress) ^ this.
    poly_power: Positive = 1.0
    # Epochs after which "multistep" multiplies the learning rate by lr_decay.
    milestones: list[PositiveOrZero] = [12, 20, 24]
    # Factor of "multistep" at each milestone.
    lr_decay: Annotated[float, "(0, 1]"] = 0.1
    # Epochs of linear warm-up; fractions are allowed, and insightface's -1 means 0.
    warmup_epoch: PositiveOrZero = 0
    # Number format of the matrix products; weights, margins and the loss stay in fp32. "auto": "bf16" where
    # this machine computes with it, else "fp32". None: "fp16" where fp16 is true, else "fp32".
    precision: Literal["fp32", "bf16", "fp16", "auto"] | None = None
    # That of the products with the class centres, where it is to be another. None: precision.
    head_precision: Literal["fp32", "bf16", "fp16", "auto"] | None = None
    # insightface's name for precision="fp16" (true) or "fp32" (false). None: precision decides.
    fp16: bool | None = None


# Settings that count only where another has a certain value: setting -> (the other, its value). Changing one
# where it does not count is an error, so that no setting is silently ignored.
USED_WITH = {
    "poly_power": ("scheduler", "poly"),
    "milestones": ("scheduler", "multistep"),
    "lr_decay": ("scheduler", "multistep"),
    "chunk_size": ("engine", "stream"),
    "kernels": ("engine", "stream"),
    "filter_gradients": ("kernels", True),
    "head_momentum": ("head_update", "fused"),
    "interclass_filtering_threshold": ("loss", "combined"),
    "margin_list": ("loss", "combined"),
}

# With head_update="fused", setting -> what it may be. Sampled centres are copied anyway, `dense` and the
# kernels make a whole gradient, each micro-batch would move the centres, and fp16 finds an overflow too late.
WITH_FUSED_UPDATE = {
    "sample_rate": (1,),
    "engine": ("stream",),
    "kernels": ("auto", False),
    "gradient_acc": (1,),
    "precision": ("fp32", "bf16"),
}

# Settings that count only where another one is given: setting -> the other.
NEEDS = {
    "freeze_bn": "pretrained",
    "lora": "pretrained",
    "head_warmup_epoch": "pretrained",
    "distillation": "teacher",
    "keep_best": "val_targets",
    "patience": "val_targets",
}

# Settings that belong to one loss or network: another one on the command line starts from their defaults.
BELONGS_TO = {
    "loss": ("loss_args", "margin_list", "interclass_filtering_threshold"),
    "network": ("network_args",),
}

# Two names of one thing: on the command line one replaces what the config says by the other.
TWO_NAMES = {"fp16": "precision", "precision": "fp16"}

# Settings in which the ranks of a run may differ: how each machine calls its folders, and what acts on one
# process alone. All others are compared before the first step, and so is the content of the data.
MAY_DIFFER_BETWEEN_RANKS = (
    *(
        "output",
        "rec",
        "val_root",
        "val_targets",
        "num_workers",
        "tensorboard",
        "using_wandb",
        "wandb_project",
        "wandb_entity",
        "report",
    ),
    *("pretrained", "teacher", "init_head"),
)

# Settings that a run may change when it goes on from a checkpoint, by what they decide: those that change the
# result, which a checkpoint keeps so that the log can tell, and those that change nothing but rounding. Any
# other change is an error. docs/reliability.md has the same tables.
MAY_CHANGE_ON_RESUME = {
    "length": "num_epoch num_steps patience",
    "learning rate": "lr lr_reference_batch warmup_epoch scheduler poly_power milestones lr_decay",
    "learning rate of fine-tuning": "lr_backbone head_warmup_epoch",
    "update": "momentum weight_decay grad_clip sampled_update head_momentum",
    "precision": "precision head_precision fp16 filter_gradients",
    "division of the global batch, which stays as large": "global_batch batch_size gradient_acc",
    "images that cannot be read": "on_bad_record",
}
SAME_RESULT_ON_RESUME = {
    "speed": "num_workers kernels channels_last compile backbone_kernels",
    "memory": "engine chunk_size head_update grad_checkpointing",
    "place of the data, whose content stays": "rec num_classes num_image",
    "weights to start from, whose content stays": "pretrained teacher init_head",
    "verification": "val_targets val_root verbose",
    "saving": "output resume save_all_states checkpoint_every keep_best",
    "logging and checks": "frequent check_ranks_every max_skipped_steps timeout_minutes",
    "what people look at": "tensorboard using_wandb wandb_project wandb_entity report",
}

# get_model() arguments that are settings of their own, and so cannot be in network_args.
NETWORK_SETTINGS = {
    "num_features": "embedding_size",
    "dropout": "dropout",
    "grad_checkpointing": "grad_checkpointing",
    "fp16": "precision",
}

# Settings of insightface's arcface_torch that have no use here: setting -> (the value that means "off", what
# serves instead). Off is accepted, so that its config files load; any other value is an error.
INSIGHTFACE_ONLY = {
    "dali": (False, "the loader decodes with OpenCV in num_workers processes"),
    "dali_aug": (False, "crop_prob, low_res_prob and photometric_prob"),
    "wandb_resume": (False, "resume=true continues the log files too"),
    "save_artifacts": (False, "the model is in the output folder"),
    "suffix_run_name": (None, "output=FOLDER names a run"),
    "notes": (None, "the docstring of the config file"),
}
# Settings of Weights & Biases: accepted with any value and dropped. A key comes from `wandb login`.
WANDB_ONLY = ("wandb_key", "wandb_log_all")

config = edict({name: deepcopy(getattr(Settings, name)) for name in Settings.__annotations__})
