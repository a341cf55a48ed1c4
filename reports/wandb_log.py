"""Numbers and pictures of a run for Weights & Biases, through its own package, which is optional.

Who is logged in (`wandb login`, or WANDB_API_KEY) sends them; with WANDB_MODE=offline they stay in the run's
folder, for `wandb sync`. A key never stands in a config: config.json would keep it.
"""

import logging
import secrets
from pathlib import Path

from torch import Tensor

from utils.errors import one_line
from utils.frozen import to_builtin
from utils.log_files import LOGGER_NAME

ID_FILE = "wandb_run.txt"  # a resumed run goes on under the same identifier


class WandbLog:
    """One run there, called after the folder. After an error nothing more is sent, and training goes on.

    Args:
        folder: of the run.
        cfg: a loaded config; `wandb_project` and `wandb_entity` say where the run belongs.
        first_step: steps done before; 0: a new run.
    Raises:
        ValueError: the package is not installed, or it does not let this run in.
    """

    def __init__(self, folder: Path, cfg, first_step: int):
        try:
            import wandb
        except ImportError:
            raise ValueError(
                "using_wandb=True needs the package wandb, which is not installed: pip install wandb, or "
                "using_wandb=false"
            ) from None
        self.wandb, self.run = wandb, None
        try:
            self.run = wandb.init(
                project=cfg.wandb_project or "lqface",
                entity=cfg.wandb_entity,
                name=folder.name,
                dir=str(folder),
                id=_identifier(folder / ID_FILE, first_step),
                resume="allow",
                config=to_builtin(cfg),
            )
        except Exception as error:  # no login, no network, no such entity: the package has errors of its own
            raise ValueError(
                f"using_wandb=True: {one_line(error)}. `wandb login` logs in, WANDB_MODE=offline keeps the "
                "numbers in the folder of the run"
            ) from None

    def add_scalars(self, step: int, scalars: dict[str, float], *, flush: bool = False) -> None:
        """Numbers by name; `flush` has no use here, as the package sends them on its own."""
        self._log(scalars, step)

    def add_image(self, step: int, name: str, image: Tensor) -> None:
        """An image `(3, H, W)` in [0, 1]."""
        self._log({name: self.wandb.Image(image)}, step)

    def close(self) -> None:
        """Send what is pending; may be called twice."""
        run, self.run = self.run, None
        if run is not None:
            run.finish()

    def _log(self, values: dict, step: int) -> None:
        if self.run is None:
            return
        try:
            self.run.log(values, step=step)
        except Exception as error:  # whatever it is, what is trained is worth more
            self.run = None
            logging.getLogger(LOGGER_NAME).warning(
                "Weights & Biases gets nothing more: %s. Training goes on", one_line(error)
            )


def _identifier(file: Path, first_step: int) -> str:
    """That of the run before, if this one goes on from it, else a new one."""
    if not (first_step and file.is_file()):
        file.write_text(secrets.token_hex(4))
    return file.read_text().strip()
