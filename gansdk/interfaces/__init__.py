"""What every part implements, a file for each kind.

Every optional method has a default, so a plugin of today keeps working.
"""

from gansdk.interfaces.adapter import Adapter, Generator, Variant
from gansdk.interfaces.distiller import Distiller, Regime, Stage, Term
from gansdk.interfaces.metric import GROUND_TRUTH, MIN_IMAGES, REAL, STUDENT, TEACHER, Measured, Metric, Quality
from gansdk.interfaces.pruner import Pruner, Run
from gansdk.interfaces.source import PROBE_STEP, DataSource
from gansdk.interfaces.student import Inherit, Student
from gansdk.interfaces.task import Task
from gansdk.interfaces.teacher import Teacher
from gansdk.interfaces.teaching import AUTO, TeacherFacts, Teaching, by_images
from gansdk.interfaces.training import Optimisation, State, Training, TrainingProcesses

__all__ = [
    "AUTO",
    "GROUND_TRUTH",
    "MIN_IMAGES",
    "PROBE_STEP",
    "REAL",
    "STUDENT",
    "TEACHER",
    "Adapter",
    "DataSource",
    "Distiller",
    "Generator",
    "Inherit",
    "Measured",
    "Metric",
    "Optimisation",
    "Pruner",
    "Quality",
    "Regime",
    "Run",
    "Stage",
    "State",
    "Student",
    "Task",
    "Teacher",
    "TeacherFacts",
    "Teaching",
    "Term",
    "Training",
    "TrainingProcesses",
    "Variant",
    "by_images",
]
