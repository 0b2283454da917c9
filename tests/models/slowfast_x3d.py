"""X3D as SlowFast has it, written down from its sources (stem_helper, resnet_helper, head_helper, operators).

Module names and their order of work are SlowFast's; only what X3D uses is here. What comes out of `state_dict` is
therefore a checkpoint of theirs, made without this project's list of names.
"""

import torch
from torch import nn
from torch.nn import functional as F

KINETICS_CLASSES = 400


class Stem(nn.Module):
    def __init__(self, cout):
        super().__init__()
        self.conv_xy = nn.Conv3d(3, cout, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv = nn.Conv3d(cout, cout, (5, 1, 1), (1, 1, 1), (2, 0, 0), bias=False, groups=cout)
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x):
        return F.relu(self.bn(self.conv(self.conv_xy(x))))


class SE(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.fc1 = nn.Conv3d(channels, width, 1)
        self.fc2 = nn.Conv3d(width, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool3d(x, 1)))))


class X3DTransform(nn.Module):
    def __init__(self, cin, inner, cout, stride, se_width):
        super().__init__()
        self.a = nn.Conv3d(cin, inner, 1, bias=False)
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = nn.Conv3d(inner, inner, 3, (1, stride, stride), 1, bias=False, groups=inner)
        self.b_bn = nn.BatchNorm3d(inner)
        if se_width:
            self.se = SE(inner, se_width)
        self.c = nn.Conv3d(inner, cout, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(cout)

    def forward(self, x):
        x = self.b_bn(self.b(F.relu(self.a_bn(self.a(x)))))
        x = self.se(x) if hasattr(self, "se") else x
        return self.c_bn(self.c(x * torch.sigmoid(x)))


class ResBlock(nn.Module):
    def __init__(self, cin, inner, cout, stride, se_width):
        super().__init__()
        if cin != cout or stride != 1:
            self.branch1 = nn.Conv3d(cin, cout, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(cout)
        self.branch2 = X3DTransform(cin, inner, cout, stride, se_width)

    def forward(self, x):
        shortcut = self.branch1_bn(self.branch1(x)) if hasattr(self, "branch1") else x
        return F.relu(shortcut + self.branch2(x))


class X3DHead(nn.Module):
    def __init__(self, cin, inner, hidden, num_classes):
        super().__init__()
        self.conv_5 = nn.Conv3d(cin, inner, 1, bias=False)
        self.conv_5_bn = nn.BatchNorm3d(inner)
        self.lin_5 = nn.Conv3d(inner, hidden, 1, bias=False)
        self.projection = nn.Linear(hidden, num_classes)

    def forward(self, x):
        x = F.adaptive_avg_pool3d(F.relu(self.conv_5_bn(self.conv_5(x))), 1)
        x = F.relu(self.lin_5(x)).permute(0, 2, 3, 4, 1)
        return self.projection(x).mean((1, 2, 3))


class X3D(nn.Module):
    """Widths as SlowFast's configurations give them: `se` is of each stage's squeeze-and-excitation."""

    def __init__(self, *, depths, inner, out, se, hidden=2048, num_classes=KINETICS_CLASSES):
        super().__init__()
        self.s1 = nn.Module()
        self.s1.pathway0_stem = Stem(out[0])
        cin = out[0]
        for number, (depth, width, cout, se_width) in enumerate(zip(depths, inner, out, se, strict=True), 2):
            stage = nn.Module()
            for i in range(depth):
                squeezed = se_width if (i + 1) % 2 else 0
                block = ResBlock(cin if i == 0 else cout, width, cout, 2 if i == 0 else 1, squeezed)
                stage.add_module(f"pathway0_res{i}", block)
            self.add_module(f"s{number}", stage)
            cin = cout
        self.head = X3DHead(cin, inner[-1], hidden, num_classes)

    def forward(self, x):
        x = self.s1.pathway0_stem(x)
        for number in range(2, 6):
            for block in getattr(self, f"s{number}").children():
                x = block(x)
        return self.head(x)
