"""The experiments that `fedadapt reproduce` can run. No torch."""

EXPERIMENTS: dict[str, str] = {
    "pfa-cifar10": "PFA on CIFAR-10, five types of clients with two classes each (figures 4, 5)",
    "pfa-pacs": "PFA on PACS by domain: Office-Home's construction where the data are at hand",
    "pfa-office-home": "PFA on Office-Home: tables 3 to 6 and 8",
    "dua-numbers": "DUA on pairs of digits of two domains (tables 1 to 3)",
    "dua-catprior": "DUA on indoor scenes, users who prefer categories (tables 1 to 4, figure 3)",
    "dua-transprior": "DUA on indoor scenes, a corruption a user (tables 1 to 4)",
    "dua-cifar10": "DUA on pairs of CIFAR-10's classes, a corruption a user: table 4's shape",
    "dua-digits": "DUA on scikit-learn's digits: nothing to download, nothing published",
}
"""Name -> description; the name begins with the paper's, up to the first hyphen."""
