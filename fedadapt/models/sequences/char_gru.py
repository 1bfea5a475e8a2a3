"""A recurrent network for sequences of tokens, such as the letters of a play.

LEAF's network for Shakespeare (Caldas et al. 2018) has an embedding of 8 and two LSTM layers of
256; this one has one GRU layer of 128.
"""

from torch import Tensor, nn

from fedadapt.models.network import Network, sequence

EMBEDDING, HIDDEN = 8, 128


def char_gru(image_shape: tuple[int], num_classes: int, vocabulary: int) -> Network:
    """Sequences of whole numbers below ``vocabulary``, [T]; the last state is the features.

    54,922 parameters for 80 letters and 10 classes.
    """
    body = sequence(
        embedding=nn.Embedding(vocabulary, EMBEDDING),
        last=LastState(EMBEDDING, HIDDEN),
    )
    return Network(body, HIDDEN, num_classes)


class LastState(nn.Module):
    """Sequences [B, T, width] -> the state of a GRU after the last of them, [B, hidden]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)

    def forward(self, vectors: Tensor) -> Tensor:
        states, _ = self.gru(vectors)
        last: Tensor = states[:, -1]
        return last
