#!/usr/bin/python3
"""Write tests/golden/norms.h5: PyTorch's BatchNorm2d, GroupNorm and InstanceNorm2d, forward, backward
and inference, on small inputs. Computed in double, stored as float32, NCHW. Made with PyTorch 1.13.1
(Debian bookworm's python3-torch); any version should give the same.

    /usr/bin/python3 tests/golden/make_norm_fixtures.py        (from the top of the tree)

Layer normalization here is over channels and positions with one gamma and beta a channel, which is
GroupNorm with one group. ReLU and a residual follow the norm in every case whose name says so.
"""
import h5py
import numpy as np
import torch
from torch import nn

CASES = [  # name, kind, groups, (N, C, H, W), mean of x, relu, residual
    ("bn", "bn", 0, (4, 5, 3, 4), 0.0, False, False),
    ("bn_relu", "bn", 0, (3, 66, 2, 1), 0.3, True, False),
    ("bn_relu_residual", "bn", 0, (2, 9, 5, 3), -1.0, True, True),
    ("bn_far", "bn", 0, (3, 4, 3, 5), 300.0, False, False),
    ("bn_one_channel", "bn", 0, (2, 1, 3, 3), 0.0, True, False),
    ("bn_flat", "bn", 0, (9, 12, 1, 1), 0.5, True, False),
    ("gn", "gn", 4, (3, 12, 5, 4), 0.2, False, False),
    ("gn_relu", "gn", 32, (2, 64, 2, 1), 0.0, True, False),
    ("gn_relu_residual", "gn", 2, (3, 6, 4, 3), 1.0, True, True),
    ("gn_far", "gn", 2, (2, 4, 6, 5), -200.0, False, False),
    ("ln", "ln", 1, (3, 10, 4, 5), 0.0, False, False),
    ("ln_relu", "ln", 1, (1, 67, 2, 2), -0.5, True, False),
    ("in", "in", 0, (3, 7, 4, 5), 0.0, False, False),
    ("in_relu_residual", "in", 0, (2, 11, 5, 3), 0.5, True, True),
]


def layer(kind, groups, channels):
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    if kind == "in":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(groups, channels)


def main():
    rng = np.random.default_rng(20010)
    with h5py.File("tests/golden/norms.h5", "w", libver=("earliest", "v108")) as f:
        f.attrs["about"] = "made by make_norm_fixtures.py; PyTorch " + torch.__version__
        for name, kind, groups, shape, mean, relu, residual in CASES:
            # Inputs are float32 values, so that both sides start from the same numbers.
            draw = lambda *s: rng.standard_normal(s).astype(np.float32).astype(np.float64)
            c = shape[1]
            norm = layer(kind, groups, c).double()
            with torch.no_grad():
                norm.weight.copy_(torch.tensor(draw(c)))
                norm.bias.copy_(torch.tensor(draw(c)))
                if kind == "bn":
                    norm.running_mean.copy_(torch.tensor(draw(c)))
                    norm.running_var.copy_(torch.tensor(np.abs(draw(c)) + 0.5))
            x = (draw(*shape) + mean).astype(np.float32).astype(np.float64)
            r, gy = draw(*shape), draw(*shape)
            g = f.create_group(name)
            put = lambda k, v: g.create_dataset(
                k, data=np.asarray(v.detach() if torch.is_tensor(v) else v, dtype=np.float32))
            g.attrs["kind"], g.attrs["groups"] = np.bytes_(kind), groups
            g.attrs["relu"], g.attrs["residual"] = int(relu), int(residual)
            put("weight", norm.weight), put("bias", norm.bias)
            put("x", x), put("residual", r), put("gy", gy)
            if kind == "bn":
                put("running_mean", norm.running_mean), put("running_var", norm.running_var)
            xt, rt = torch.tensor(x, requires_grad=True), torch.tensor(r, requires_grad=True)

            def run():
                y = norm(xt)
                y = y + rt if residual else y
                return torch.relu(y) if relu else y

            norm.eval()
            put("eval_y", run())
            norm.train()
            y = run()
            y.backward(torch.tensor(gy))
            put("y", y), put("gx", xt.grad)
            put("gweight", norm.weight.grad), put("gbias", norm.bias.grad)
            if residual:
                put("gresidual", rt.grad)
            if kind == "bn":
                put("running_mean_after", norm.running_mean)
                put("running_var_after", norm.running_var)


main()
