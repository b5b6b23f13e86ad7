"""Does an installation do what the README promises? `make dist` runs this with the Python of an environment into which
the wheel was installed and nothing else, in an empty folder. The README's Python also wants the extra `xarray`: with
`--python` it is run.
"""

import os
import subprocess
import sys
import textwrap
from importlib import metadata, resources
from pathlib import Path

import documents

import landscape


def run(*command: str) -> None:
    """Run a command; exit if it fails."""
    print(" ".join(command).partition("\n")[0].replace(str(Path(sys.executable).parent), "."), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")


def main() -> None:
    os.environ["MPLBACKEND"] = "agg"
    os.environ["LANDSCAPE_CONFIG_HOME"] = os.path.abspath("configuration")
    (distribution,) = metadata.packages_distributions()["landscape"]
    if "site-packages" not in landscape.__file__:
        sys.exit(f"{landscape.__file__} is no installation")
    if metadata.version(distribution) != landscape.__version__:
        sys.exit(f"{distribution} {metadata.version(distribution)} holds landscape {landscape.__version__}")
    web = [("landscape.web", f"report.{kind}") for kind in ("css", "js")]
    for package, name in (("landscape", "py.typed"), ("landscape.figures", "landscape.mplstyle"), *web):
        if not (resources.files(package) / name).is_file():
            sys.exit(f"the wheel lacks {name} of {package}")

    program = str(Path(sys.executable).with_name("landscape"))
    run(program, "--help")
    run(program, "plot", "rule", "B3/S23V", "-o", "rule.svg", "--force")
    examples = documents.markdown("README.md", documents.pages()["README.md"])
    own, *others = [example for example in examples if example.language == "python"]
    Path(own.file).write_text(own.text)
    run(sys.executable, "-c", textwrap.dedent(documents.READER_HAS["README.md"]).strip())
    if "--python" in sys.argv:
        Path("others.py").write_text("\n".join(example.shorter for example in others))
        run(sys.executable, "others.py")
    else:
        begin = examples.index(own) + 1
        for example in examples[begin : begin + 4]:
            run(program, *example.text.split()[1:])
    print(f"{distribution} {landscape.__version__}: what the README promises is there")


if __name__ == "__main__":
    main()
