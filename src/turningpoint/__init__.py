"""turningpoint finds when a diffusion model makes up its mind.

At which noise level are the class, the slant, the stroke, the texture of an image decided?  Load a
model, send images on U-turns, measure what came back, and read the critical windows:

>>> import turningpoint as tp
>>> run = tp.uturn("digits", items=4, times=[0.2, 0.5, 0.8], steps=5, progress=None)
>>> windows = run.measure("class", "pixels").windows()
>>> sorted(windows.feature)
['class', 'pixels']
"""

from .data import ImageSet, open_images
from .diffusion.denoiser import Denoiser, NetworkDenoiser
from .diffusion.grid import Grid
from .diffusion.guidance import Guided
from .diffusion.sampler import Sampler, Step, sampler
from .diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow, Schedule
from .errors import SimulationError, TurningpointError
from .experiments.clone import clone
from .experiments.compare import compare
from .experiments.effects import effects
from .experiments.export import export
from .experiments.generate import generate
from .experiments.hierarchy import hierarchy
from .experiments.merge import merge
from .experiments.model_error import model_error
from .experiments.patch import patch
from .experiments.quality import quality
from .experiments.refine import refine
from .experiments.repeat import repeat
from .experiments.statistics import collect_statistics, merge_statistics
from .experiments.step_check import step_check
from .experiments.symmetry import symmetry
from .experiments.trace import trace
from .experiments.uturn import uturn
from .measures import MEASURES, Measure, Reading, measure
from .models import MODELS, load
from .report import report
from .run import Run, open_run
from .simulation.noise import Address, Noise, RecordedNoise, SeededNoise
from .simulation.walk import Record
from .tracing import Trace, open_trace

__version__ = "0.1.0"
