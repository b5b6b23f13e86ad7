"""Recording where people train: in Lightning, in the Trainer of Hugging Face; in a loop, `landscape.Recorder`."""
