"""A PyTorch module as an ONNX file, by the TorchScript exporter, with the shapes of its example inputs."""

import inspect
import warnings

import torch


def export(module, feeds, path):
    # The exporter gives out the names in the order of the parameters.
    inputs = {name: torch.from_numpy(feeds[name]) for name in inspect.signature(module.forward).parameters if name in feeds}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (),
            str(path),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["last_hidden_state"],
            opset_version=17,
            dynamo=False,
        )
