"""ResNet-18 (He et al. 2016), with torchvision's layer names."""

from torch import Tensor, nn

from fedadapt.models.network import Network, he_normal, sequence


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(F(x) + x)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.downsample = (
            nn.Identity()
            if stride == 1 and channels == width
            else nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.downsample(x)
        out: Tensor = self.relu2(y)
        return out


def resnet18(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Any image size; made for 224 pixels, of which it keeps a thirty-second part each way."""
    body = sequence(
        conv1=nn.Conv2d(image_shape[0], 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        layer1=nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)),
        layer2=nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1)),
        layer3=nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1)),
        layer4=nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1)),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return Network(he_normal(body), 512, num_classes)
