"""What ``tunesmith data bootstrap`` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.bootstrap.filters import FilterConfig
from tunesmith.data.bootstrap.seeds import read_seeds


class BootstrapConfig(Config):
    """How new rows are made."""

    seeds: str = Field(min_length=1)
    """Seed tasks: Self-Instruct's or Alpaca's columns."""
    output_dir: str = Field(min_length=1)
    """Folder of the rows, the turned-down answers, the requests and the report."""
    writer: dict[str, str]
    """Who writes, as the writer itself says."""
    num: int = Field(500, ge=1)
    """Rows wanted."""
    seed: int = Field(0, ge=0)
    """Keys which seeds are shown and every draw of the writer."""
    scheme: Literal["paper", "small"] = "paper"
    """paper: the writer is asked for the kind of a task, and for input and output at once. small, for models that
    cannot do that: the kind by a rule on words, and the output by giving the writer the task itself."""
    num_shown: int = Field(8, ge=1)
    """Tasks shown in a request for a new one."""
    num_made_shown: int = Field(2, ge=0)
    """How many of them are machine-made, once there are some."""
    num_shots: int = Field(4, ge=1)
    """Instances shown in a request for an instance."""
    requests_at_once: int = Field(8, ge=1)
    """New instructions asked for in one round; they see the same machine-made tasks."""
    max_idle_requests: int = Field(200, ge=1)
    """Stop after so many requests for instructions without a new row."""
    max_instances: int = Field(3, ge=1)
    """Rows of one instruction at most."""
    temperature: float = Field(0.7, ge=0, le=10)
    """Of every request but the question for the kind, which is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of every request but the question for the kind."""
    max_instruction_tokens: int = Field(96, ge=1)
    """Longest answer to a request for an instruction; one that is cut off is turned down."""
    max_instance_tokens: int = Field(384, ge=1)
    """Longest answer to a request for an instance or an output; one that is cut off is turned down."""
    filters: FilterConfig = FilterConfig()
    """Limits of what is kept."""

    def check_seeds(self) -> None:
        """Raise DataError where the seeds cannot be read."""
        read_seeds(self.seeds)
