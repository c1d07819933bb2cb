"""What cells fork from has imported what they need."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_server_has_imported_everything_and_knows_which_code_that_was():
    code = (
        "import sys, lightning_gen.benchmark.preload;"
        "from lightning_gen.evaluation.provenance import provenance;"
        "needed = {'torch', 'lightning', 'lightning_gen.cli', 'lightning_gen.evaluation.judge', 'matplotlib.figure'};"
        "sys.exit(str(needed - set(sys.modules)) if needed - set(sys.modules) else not provenance.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
