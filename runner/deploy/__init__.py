"""A finished run made ready for llama.cpp, Ollama, vLLM, GPTQ or ONNX. Public: `deploy_run`, `Deployment`, `TARGETS`."""

from __future__ import annotations

from ftadvise.runner.deploy.deploy import TARGETS, check_target, deploy_run
from ftadvise.runner.deploy.deployment import Command, Deployment

__all__ = ["TARGETS", "Command", "Deployment", "check_target", "deploy_run"]
