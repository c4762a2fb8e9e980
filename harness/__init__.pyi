from harness.api import Run as Run
from harness.api import Runs as Runs
from harness.api import compare as compare
from harness.api import evaluate as evaluate
from harness.api import grade as grade
from harness.api import import_completions as import_completions
from harness.api import load_runs as load_runs
from harness.api import train as train
from harness.core.errors import HarnessError as HarnessError
from harness.core.types import Completion as Completion
from harness.core.types import Estimate as Estimate
from harness.core.types import Message as Message
from harness.core.types import Problem as Problem
from harness.core.types import Verdict as Verdict

__version__: str
