"""The base class of every typed value that is read from a file or written to one."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that cannot change, refuses unknown fields, and takes its fields' descriptions from their docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
