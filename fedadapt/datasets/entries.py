"""The table of benchmarks: what is known of each without opening it. No torch, no numpy."""

from dataclasses import dataclass

FOLDER = "folder:"
OFFICIAL = "fedadapt.datasets.sources.official:read_official"
DIGITS = "fedadapt.datasets.sources.digits:read_digits"
IMAGE_FOLDER = "fedadapt.datasets.sources.decode:read_folder"
NPZ, HUGGING_FACE, CLIENTS = "npz:", "hf:", "clients:"
IMAGES, SERIES, TOKENS = "images", "series", "tokens"
"""Kinds of inputs: bytes, real numbers and whole numbers."""
NATURAL = "natural"
"""The partition in which the data belong to their clients."""


HAR_SIGNALS = tuple(
    f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"
)
"""The channels of UCI HAR, as its files are called."""


@dataclass(frozen=True)
class DataEntry:
    """What is known of a benchmark without opening it; 0 and () where only the data can tell."""

    name: str
    description: str
    image_size: int  # pixels a side
    channels: int
    classes: int
    num_train: int  # images divided among the clients
    num_test: int  # images of the official test part
    files: tuple[str, ...]  # below the data root, as torchvision lays them out
    partition: str  # what an empty ``partition`` means
    shift: str  # what an empty ``shift`` means
    domains: int = 0
    split: str = "client"  # what ``split=auto`` means; see ``datasets/partitioning/pooled.py``
    sizes: tuple[int, int, int] | None = None  # train, adapt, test images of a client, where fixed
    data: str = ""  # the benchmark whose files these are; its own where empty
    folders: tuple[str, ...] = ()  # names an image folder may have below the data root
    reader: str = OFFICIAL  # ``module:function`` that reads the images
    sampled: bool = False  # clients draw images from pools: there are fewer than clients want
    natural: bool = False  # photographs of things; no digits, letters or clothes
    known: bool = True  # False for a user's own: nothing is known before it is opened
    kind: str = IMAGES  # what its inputs are; empty: unknown until it is opened
    form: str = ""  # how a list shows the shape of an input; empty: by image_size and channels
    owners: int = 0  # whose data these are: so many persons or cameras
    downloaded: bool = True  # missing files are downloaded where there is internet

    @property
    def is_folder(self) -> bool:
        """Whether its images are single files in folders."""
        return self.name.startswith((FOLDER, CLIENTS)) or bool(self.folders)

    @property
    def is_ours(self) -> bool:
        """Whether its reader is a part of this package, and takes what ours take."""
        return self.reader.startswith("fedadapt.")

    @property
    def joins_duplicates(self) -> bool:
        """Whether identical images are looked for, which published benchmarks leave as they are."""
        return self.is_folder or not self.known


def _digits(name: str, description: str, partition: str, shift: str) -> DataEntry:
    return DataEntry(f"digits-{name}", description, 8, 1, 10, 1797, 0, (), partition, shift,
                     reader=DIGITS, sampled=True)  # fmt: skip


def _mnist_files(folder: str) -> tuple[str, ...]:
    return tuple(
        f"{folder}/raw/{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )


_EMNIST = tuple(
    f"EMNIST/raw/emnist-balanced-{part}-{kind}-ubyte"
    for part in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
)
_CIFAR10 = tuple(
    f"cifar-10-batches-py/{name}"
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
)
_CIFAR100 = tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
_SVHN = ("train_32x32.mat", "test_32x32.mat")
_USPS = ("usps.bz2", "usps.t.bz2")
_OFFICE_HOME = ("OfficeHomeDataset_10072016", "OfficeHome", "office-home")
_PACS = ("pacs", "PACS")
_HAR = tuple(
    f"UCI HAR Dataset/{part}/{name}_{part}.txt"
    for part in ("train", "test")
    for name in ("subject", "y", *(f"Inertial Signals/{signal}" for signal in HAR_SIGNALS))
)
_LEAF = "fedadapt.datasets.sources.leaf:"
_SKEWED, _TYPES = "dirichlet:0.3", "class-types:2"

ENTRIES: tuple[DataEntry, ...] = (
    _digits("classes", "scikit-learn's digits, types of clients with two classes", _TYPES, "none"),
    _digits("domains", "... plain, inverted, rotated, blurred or noisy", "iid", "domains"),
    _digits("dirichlet", "... with Dirichlet class proportions", _SKEWED, "none"),
    DataEntry("mnist", "handwritten digits", 28, 1, 10, 60_000, 10_000, _mnist_files("MNIST"),
              _SKEWED, "none"),
    DataEntry("fashion-mnist", "pieces of clothing", 28, 1, 10, 60_000, 10_000,
              _mnist_files("FashionMNIST"), _SKEWED, "none"),
    DataEntry("emnist", "letters and digits, balanced", 28, 1, 47, 112_800, 18_800, _EMNIST,
              _SKEWED, "none"),
    DataEntry("cifar10", "animals and vehicles", 32, 3, 10, 50_000, 10_000, _CIFAR10, _TYPES,
              "none", natural=True),
    DataEntry("cifar100", "a hundred kinds of things", 32, 3, 100, 50_000, 10_000, _CIFAR100,
              _SKEWED, "none", natural=True),
    DataEntry("svhn", "house numbers", 32, 3, 10, 73_257, 26_032, _SVHN, _SKEWED, "none"),
    DataEntry("usps", "digits of post codes", 16, 1, 10, 7_291, 2_007, _USPS, _SKEWED, "none"),
    DataEntry("pfa-cifar10", "PFA, sec. 5: five types of clients, 100 + 100 images each", 32, 3, 10,
              50_000, 10_000, _CIFAR10, _TYPES, "none", split="official", sizes=(100, 50, 100),
              data="cifar10", natural=True),
    DataEntry("pfa-office-home", "PFA, sec. 5: Art, Clipart, Product, Real World", 224, 3, 65,
              15_588, 0, (), "by-domain", "none", 4, split="pooled", folders=_OFFICE_HOME,
              reader=IMAGE_FOLDER, natural=True),
    DataEntry("pfa-pacs", "... the same of photos, art, cartoons and sketches", 0, 3, 7,
              9_991, 0, (), "by-domain", "none", 4, split="pooled", folders=_PACS,
              reader=IMAGE_FOLDER, natural=True),
    DataEntry("har", "UCI HAR: what persons do, by the telephone at their waist", 0, 9, 6,
              10_299, 0, _HAR, NATURAL, "none", reader="fedadapt.datasets.sources.har:read_har",
              kind=SERIES, form="9x128", owners=30, downloaded=False),
    DataEntry("iwildcam", "animals before camera traps: the 20 commonest and the others", 64, 3,
              21, 22_375, 0, ("iwildcam.npz",), NATURAL, "none", natural=True,
              reader="fedadapt.datasets.sources.iwildcam:read_iwildcam", owners=72,
              downloaded=False),
    DataEntry("femnist", "letters and digits by writer (LEAF)", 28, 1, 62, 0, 0,
              ("femnist/data",), NATURAL, "none", reader=_LEAF + "read_femnist", downloaded=False),
    DataEntry("celeba", "celebrities, smiling or not (LEAF)", 84, 3, 2, 0, 0,
              ("celeba/data",), NATURAL, "none", reader=_LEAF + "read_celeba", downloaded=False),
    DataEntry("shakespeare", "the next letter of a role in a play (LEAF)", 0, 0, 80, 0, 0,
              ("shakespeare/data",), NATURAL, "none", reader=_LEAF + "read_shakespeare",
              kind=TOKENS, form="80 characters", downloaded=False),
)  # fmt: skip
"""A line here and its reader are all that a new benchmark of ours needs."""

ANY_CLIENTS = DataEntry(
    CLIENTS, "your images, <client>/<class>/*.jpg", 0, 3, 0, 0, 0, (), NATURAL, "none",
    reader="fedadapt.datasets.sources.decode:read_clients", natural=True,
)  # fmt: skip
ANY_NPZ = DataEntry(
    NPZ, "your arrays x, y, client, group, classes in a file", 0, 0, 0, 0, 0, (), "", "none",
    reader="fedadapt.datasets.sources.arrays:read_clients_arrays", known=False, kind="",
)  # fmt: skip
ANY_HUGGING_FACE = DataEntry(
    HUGGING_FACE, "a data set of Hugging Face", 0, 0, 0, 0, 0, (), "", "none",
    reader="fedadapt.datasets.sources.hugging_face:read_hugging_face", known=False, kind="",
)  # fmt: skip
ANY_FOLDER = DataEntry(
    FOLDER, "your images, <domain>/<class>/*.jpg", 0, 3, 0, 0, 0, (), "by-domain", "none",
    reader=IMAGE_FOLDER, natural=True,
)  # fmt: skip


def user_entry(name: str, reader: str) -> DataEntry:
    """The entry of a user's own data set: everything is unknown until it is opened."""
    return DataEntry(
        name, f"read by {reader}", 0, 0, 0, 0, 0, (), "", "none", reader=reader, known=False,
        kind="",
    )  # fmt: skip
