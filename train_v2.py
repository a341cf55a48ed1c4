"""Train a face recognition network from a config module.

    python train_v2.py configs/demo                                      # one GPU, or the CPU
    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_r100          # one process a GPU
    ... configs/ms1mv2_r100 batch_size=256 lr=0.05 loss_args.m=0.4       # any field of configs/base.py
    python train_v2.py --settings                                        # all of them, with their defaults

The run folder (`output`) receives config.json, run.json, train.log, metrics.jsonl, TensorBoard files,
report.html, curves.png, model.pt (the backbone alone), with keep_best best.pt, checkpoints/ and, with
ARoFace, aroface_samples.png: faces that the first step has warped (a resumed run leaves it as it is).
`resume=true` goes on from the newest checkpoint, mid-epoch too, on any number of ranks, which share out the
same global batch: the order of the data and the randomness of a step are functions of (seed, epoch, step), so
a resumed run repeats what an uninterrupted one does. What it may change is listed in docs/reliability.md.
Without `resume`, a folder that holds checkpoints is refused, and always one in which another run works.
`resume=auto` starts or goes on:

    torchrun --nproc_per_node=4 --max-restarts=3 train_v2.py configs/ms1mv2_r100 resume=auto

SIGTERM and SIGUSR1 end the run after the present step: with a checkpoint, a file PREEMPTED and exit code 75.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from backbones import CompiledBackbone, build_backbone, choose_kernels, load_teacher
from dataset import get_dataloader, get_dataset, to_input
from eval.kfold import load_set
from eval.verification_report import summary, verify
from loading.global_batch import choose_global_batch
from loading.loader import FaceLoader
from losses import Regularizer, build_distillation, build_loss, build_perturbation, build_regularizer
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from ranks.fail_together import fail_together
from ranks.preemption import heed_signals, stop
from ranks.sync_batch_norm import prepare_batch_norm
from ranks.watchdog import watch_ranks
from reports.mirrors import open_mirrors
from training.best_model import BestModel, write_backbone
from training.diagnosis import explain_skips
from training.fine_tuning import HeadWarmup, as_rgb, rates_of_layers, set_learning_rate
from training.head_update import make_head_update
from training.hints import hints
from training.identity import RunIdentity, compare_settings
from training.initial_centres import start_centres
from training.lr_scheduler import Schedule
from training.memory import estimate_memory
from training.optimizer import build_optimizer, make_scaler
from training.rank_buffers import gather_buffers
from training.run_folder import RunFolder
from training.run_report import RunReport
from training.settings_page import settings_page
from training.step_guard import StepGuard
from training.training_state import TrainingState, find_checkpoint, require_steps_left, saved_batch, seed_step
from utils.command_line import run_script
from utils.config import get_config, verification_files
from utils.distributed import average_buffers, rank, start_process_group, stop_process_group, world_size
from utils.logging import RunLog, setup_logging
from utils.precision import autocast
from utils.progress import here
from utils.run_info import write_run_info
from utils.tensor_files import require_finite


def main() -> None:
    # ---------------------------------------------------------------- config, processes, run folder
    with fail_together():  # a mistake that one rank meets ends all of them with its message
        cfg = get_config(*parse_command_line(sys.argv[1:]))
    device = start_process_group(cfg.timeout_minutes or 30)
    watch_ranks(cfg.timeout_minutes)
    torch.backends.cudnn.benchmark = True  # shapes never change
    compare_settings(cfg)
    output = Path(cfg.output)
    folder = RunFolder(output, shared=cfg.save_all_states)
    first_step = find_checkpoint(output / "checkpoints", cfg.resume)

    # ---------------------------------------------------------------- data and schedule
    with fail_together():
        logger = setup_logging(output, rank())
        dataset = get_dataset(cfg)
        for text in (*cfg.warnings, *dataset.warnings):
            logger.info("warning: %s", text)  # of rank 0 alone
        saved = saved_batch(output / "checkpoints", first_step)
        global_batch = choose_global_batch(cfg, world_size(), saved)
        loader = get_dataloader(cfg, dataset, rank=rank(), world_size=world_size(), global_batch=global_batch)
        schedule = Schedule(cfg, len(loader), global_batch)  # raises here, before an earlier run's files go
        total_steps = schedule.total_steps
        val_files = verification_files(cfg)
        validation = {name: load_set(path) for name, path in val_files.items()}
        identity = RunIdentity(cfg, dataset, schedule, global_batch)
    identity.compare_ranks(validation)
    require_steps_left(folder, first_step, total_steps, cfg.resume)

    # ---------------------------------------------------------------- backbone, loss, head
    torch.manual_seed(cfg.seed)
    with fail_together():
        backbone, teacher = build_backbone(cfg), load_teacher(cfg, device)
        terms = [build_regularizer(name, **hyper) for name, hyper in cfg.regularizers]
        memory = estimate_memory(cfg, backbone, terms, dataset.num_classes, global_batch, device)
    backbone.to(device, memory_format=torch.channels_last if cfg.channels_last else torch.contiguous_format)
    prepare_batch_norm(backbone, cfg.sync_bn, loader)
    choose_kernels(cfg, backbone, device)
    head = build_head(cfg, terms, dataset.num_classes).to(device)
    perturb = None if cfg.aroface is None else build_perturbation(**cfg.aroface)
    distill = build_distillation(teacher, backbone.input_order, **cfg.distillation)
    warmup = HeadWarmup(backbone, round(cfg.head_warmup_epoch * schedule.steps_per_epoch), total_steps)
    network = CompiledBackbone(backbone) if cfg.compile else backbone
    ddp = data_parallel(network, device)

    # ---------------------------------------------------------------- optimiser, scaler, resume
    optimizer = build_optimizer(cfg, backbone, head, schedule.base_lr, rates=rates_of_layers(cfg, backbone))
    scaler, best = make_scaler(cfg.precision, device), BestModel(output, cfg.keep_best, cfg.patience)
    head.update_rule = make_head_update(cfg, optimizer, head)
    guard = StepGuard(backbone, head, optimizer, scaler, cfg, range(first_step, total_steps))
    counters = dict(guard=guard, bad_records=loader.bad_records, best=best)
    state = TrainingState(backbone, head, optimizer, scaler, identity, **counters)
    folder.require_room(state.bytes_of_save(checkpoint=cfg.save_all_states, num_models=1 + cfg.keep_best))
    if first_step:
        state.load(output / "checkpoints", first_step)
    else:
        start_centres(cfg, head, lambda: teacher or backbone.eval(), dataset)

    # ---------------------------------------------------------------- what is about to happen
    derived = identity.facts(first_step, backbone, device)
    if rank() == 0:
        write_run_info(output, cfg, keep_earlier=first_step > 0, **derived)
    logger.info("%s", cfg)
    logger.info("%s\n%s\n%s", "  ".join(f"{name} {value}" for name, value in derived.items()), head, memory)
    for hint in hints(cfg, device, derived["parameters"]):
        logger.info("warning: %s", hint)
    counts = dict(total_steps=total_steps, global_batch=global_batch, first_step=first_step)
    with fail_together():
        mirrors = open_mirrors(cfg, output, first_step) if rank() == 0 else ()
    log = RunLog(output, rank=rank(), **counts, mirrors=mirrors)
    report = RunReport(log, dataset, on=cfg.report)

    # ---------------------------------------------------------------- two things done now and then
    @here.part("verification")
    def evaluate(step: int) -> dict:
        average_buffers(backbone, loader.weight)
        require_finite(backbone.state_dict(), f"after step {step}, with lr={cfg.lr:g}")
        results = {
            name: verify(backbone, *pairs, batch_size=cfg.batch_size, precision=cfg.precision)
            for name, pairs in validation.items()
            if step == total_steps or best.decides or not here.stop_agreed  # asked to stop, there is no time
        }
        log.log_eval(step, results)
        best.add(step, results, partial(write_backbone, best.path, backbone, cfg))
        return results

    @here.part("saving")
    def save(step: int, out_of_turn: bool) -> None:
        buffers = gather_buffers(backbone) if out_of_turn else None
        average_buffers(backbone, loader.weight)
        # First: who goes on from the checkpoint never writes the model of this step.
        write_backbone(output / "model.pt", backbone, cfg)
        if cfg.save_all_states:
            state.save(output / "checkpoints", step, buffers)
        report.draw()

    # ---------------------------------------------------------------- the loop
    backbone.train(), head.train()
    checkpoint_every = cfg.checkpoint_every or schedule.steps_per_epoch
    results = {}
    steps = training_steps(loader, first_step, total_steps, cfg.gradient_acc)
    for step, batches in heed_signals(best.until_over(steps)):
        seed_step(cfg.seed, step)
        lr = schedule(step)
        set_learning_rate(optimizer, lr)
        head.set_progress(step, schedule.epoch(step), schedule.epoch(total_steps))
        guard.begin()

        for micro_batch in range(1, cfg.gradient_acc + 1):
            with here.part("reading images"), log.waiting():
                images, labels, indices = next(batches)
            images = to_input(images, device, cfg.channels_last, backbone.input_order)
            if perturb:
                with warmup(step), autocast(device, cfg.precision):
                    images, labels = perturb(network, head, images, labels)
                indices = indices[perturb.source]
            with nullcontext() if micro_batch == cfg.gradient_acc else ddp.no_sync():
                with autocast(device, cfg.precision):
                    with warmup(step):
                        embeddings = ddp(distill.view(images))
                    to_teacher = distill(embeddings, images)
                loss = (head(embeddings, labels) + to_teacher) / cfg.gradient_acc
                guard.add(loss)
                scaler.scale(loss).backward()
        guard.end()  # clips and updates; a step with NaN or inf, on any rank, is skipped on all

        done = step + 1
        due = done == total_steps or guard.is_time_to_save(done % checkpoint_every == 0)
        verifying = done == total_steps or (cfg.verbose and done % cfg.verbose == 0)
        stopping = here.stop_agreed  # the same on every rank
        saving = due or stopping
        if saving or schedule.is_logged(done):
            batch = distill.seen, labels, [dataset.name_of(i) for i in indices.tolist()]
            explain = partial(explain_skips, done, (backbone, head), batch, cfg.precision, output)
            guard.stop_if_stuck(warmup(step)(explain))  # waits for the GPU, so only where it logs
            numbers = dict(epoch=schedule.epoch(done), lr=lr, **guard.numbers())
            terms = head.last_terms | head.last_means | distill.last_terms
            log.log_step(done, **numbers, **terms, **loader.report_bad())
            report.add(schedule.epoch(step), indices, labels, head.last_samples)
        if perturb and done == 1:
            log.log_pairs(done, "aroface_samples", as_rgb(perturb.samples, backbone.input_order))
        if cfg.check_ranks_every and (saving or step == first_step or done % cfg.check_ranks_every == 0):
            state.check_ranks(done)
        if verifying:
            results = evaluate(done)
        if saving or best.is_over:
            save(done, out_of_turn=not (due or verifying))
            log.restart_clock(done)
        if stopping and done < total_steps:
            log.close()
            stop(output, done, total_steps)

    # ---------------------------------------------------------------- the end
    log.close()
    report.draw(at_the_end=True)
    if rank() == 0:
        accuracies = summary(results, val_files, validation)
        logger.info("\n".join(filter(None, [accuracies, f"model, curves and logs are in {output}"])))
    folder.release()
    stop_process_group()


def parse_command_line(arguments: list[str]) -> tuple[str, list[str]]:
    """CONFIG [key=value ...]; or prints what the script or its settings are, and ends it."""
    if arguments and arguments[0] == "--settings":
        print(settings_page())
        sys.exit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if arguments else 2)
    return arguments[0], arguments[1:]


def build_head(cfg, regularizers: list[Regularizer], num_classes: int) -> PartialFC:
    """The classifier with its loss and regularisers, on the CPU."""
    head = PartialFC(
        build_loss(cfg.loss, **cfg.loss_args),
        cfg.embedding_size,
        num_classes,
        sample_rate=cfg.sample_rate,
        regularizers=regularizers,
        engine=cfg.engine,
        chunk_size=cfg.chunk_size,
        kernels=cfg.kernels,
        filter_gradients=cfg.filter_gradients,
        precision=cfg.head_precision or cfg.precision,
        head_update=cfg.head_update,
        seed=cfg.seed,
    )
    head.weight.requires_grad_("head" not in cfg.freeze)
    return head


def training_steps(
    loader: FaceLoader, first_step: int, total_steps: int, gradient_acc: int
) -> Iterator[tuple[int, Iterator]]:
    """Yield (step, batches) from first_step on: the step's micro-batches are the next ones of `batches`."""
    steps_per_epoch = len(loader) // gradient_acc
    batches = None
    for step in range(first_step, total_steps):
        epoch, step_of_epoch = divmod(step, steps_per_epoch)
        if batches is None or step_of_epoch == 0:
            loader.set_position(epoch, first_batch=step_of_epoch * gradient_acc)
            batches = iter(loader)
        here.step, here.doing = step + 1, "training"
        yield step, batches


if __name__ == "__main__":
    run_script(main)
