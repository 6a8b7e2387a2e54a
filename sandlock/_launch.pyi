STEPS: dict[int, str]
