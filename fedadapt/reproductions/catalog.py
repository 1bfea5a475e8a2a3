"""What `fedadapt reproduce` can run. No torch."""

EXPERIMENTS: dict[str, str] = {
    "pfa-cifar10": "PFA on CIFAR-10, five types of devices with two classes each (figures 4, 5)",
    "pfa-pacs": "PFA on PACS by domain: Office-Home's construction where the data are at hand",
    "pfa-office-home": "PFA on Office-Home: tables 3 to 6 and 8",
}
