# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of "downsample particles": its parameters, in the words of the people who fill it in."""

from __future__ import annotations

from pyworkflow.protocol import ProtStreamingBase, params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from ..core.plan import FilterShape, Recenter
from ..engine.job_checks import DEFAULT_PARTICLES_PER_STACK
from .alignments import addConventionParam
from .particles import PARTICLES_OR_CLASSES

RECENTER_MODES = [Recenter.WHOLE_PIXELS, Recenter.EXACT]
FILTER_SHAPES = [FilterShape.BUTTERWORTH, FilterShape.RAISED_COSINE]
HALF_THE_OUTPUT_BOX = -1
ODD_BOXES = (
    "An odd box is possible, and exact here; but RELION 3.1 reconstructs wrong maps from one, without a word, so "
    "choose an even box."
)


def defineDownsampleForm(form):
    """Add all parameters to a protocol's form."""
    _defineInput(form)
    form.addSection(label="Downsampling")
    defineBox(form)
    _defineRecentring(form)
    defineFilters(form)
    _defineNormalization(form)
    _defineStorage(form)
    _defineStreaming(form)
    form.addParallelSection(threads=4, mpi=1)
    form.getParam("numberOfThreads").help.set(
        "Worker processes of the program. Each reads, transforms and writes images of its own; one per core is a good "
        "number, unless the disk is slower than that. The result does not depend on it."
    )
    form.getParam("numberOfMpi").help.set(
        "More than 1: so many programs are started by mpirun, on one computer or several, each with _Threads_ worker "
        "processes. All of them work on every output stack. The result does not depend on it.\n"
        "With a queue for steps, each output stack is a job of its own in the queue instead."
    )


def _defineInput(form):
    form.addSection(label="Input")
    form.addParam(
        "inputParticles",
        params.PointerParam,
        pointerClass=PARTICLES_OR_CLASSES,
        important=True,
        label="Input particles",
        help="The particles to downsample. Averages work too, and stay averages. Of 2D or 3D classes, their particles "
        "are taken, with the alignment that they have there. The output keeps their ids, CTF, acquisition, classes "
        "and every other attribute.",
    )
    form.addParam(
        "alignments3D",
        params.PointerParam,
        pointerClass="SetOfParticles,SetOfClasses3D",
        allowsNull=True,
        label="Alignments 3D",
        help="Optional. Particles (or 3D classes) of the same ids whose 3D alignment is to be used instead of the "
        "input's own, such as the result of a refinement. They may have another pixel size. Particles that are "
        "not in it are left out. The output carries this alignment. It wins over Alignments 2D.",
    )
    form.addParam(
        "alignments2D",
        params.PointerParam,
        pointerClass="SetOfParticles,SetOfClasses2D",
        allowsNull=True,
        label="Alignments 2D",
        help="Optional. Particles (or 2D classes) of the same ids whose 2D alignment is to be used instead of the "
        "input's own, such as the result of a 2D classification. They may have another pixel size. Particles that "
        "are not in it are left out. The output carries this alignment. Not used where Alignments 3D is given.",
    )
    addConventionParam(form)


def defineBox(form):
    """Add the boxes and the pixel size, of particles or volumes."""
    group = form.addGroup("Box and pixel size")
    group.addParam(
        "cropSize",
        params.IntParam,
        allowsNull=True,
        label="Crop / pad to box size (px)",
        help="Box size in pixels of the input, to cut the images to before anything else; the pixel size stays. A "
        "larger box than the particles' is padded with each particle's mean. Empty: keep the box.\n"
        "Example: 320 for particles that stand in a box of 400 px, wider than they need.\n" + ODD_BOXES,
    )
    group.addParam(
        "targetPixelSize",
        params.FloatParam,
        allowsNull=True,
        label="Desired approx. pixel size (Å/px)",
        help="Downsample to about this pixel size: the nearest even box over the same field of view is taken, and the "
        "output set carries the pixel size that really comes out.\n"
        "Example: 320 px at 1.31 Å/px and 3 Å/px give a box of 140 px at 2.994 Å/px.\n"
        "Give this or _Fourier crop to box size_, not both; empty for no downsampling. The box that it gives is even.",
    )
    group.addParam(
        "fourierCropSize",
        params.IntParam,
        allowsNull=True,
        label="Fourier crop to box size (px)",
        help="Downsample to this box size: the image's Fourier transform is cut to it, so that everything below the "
        "new Nyquist limit stays as it was. At most the box after cropping.\n"
        "Example: 320 px at 1.31 Å/px and 128 px give 3.275 Å/px, Nyquist 6.55 Å.\n"
        "Give this or _Desired approx. pixel size_, not both.\n" + ODD_BOXES,
    )


def _defineRecentring(form):
    group = form.addGroup("Recentring")
    group.addParam(
        "recenter",
        params.BooleanParam,
        default=False,
        label="Recenter using aligned shifts",
        help="Move each particle to the centre of its box by the shift that its alignment found. The shifts and "
        "coordinates of the output are corrected by just what was moved, so that nothing is applied twice.\n"
        "Keep to the alignment that comes with the output, or one found on it: an alignment of the full-size particles "
        "holds the whole shift, and put on the output (as by _assign alignment_) that would be applied twice.",
    )
    group.addParam(
        "recenterMode",
        params.EnumParam,
        choices=[mode.value for mode in RECENTER_MODES],
        default=0,
        condition="recenter",
        expertLevel=LEVEL_ADVANCED,
        label="Recentring",
        help="_whole pixels_: move by the shift rounded to whole input pixels, without interpolation; the rest "
        "stays in "
        "the alignment.\n_exact_: move by the whole shift, its fraction as a phase ramp in Fourier space; the shifts "
        "of the output are zero.",
    )


def defineFilters(form):
    """Add the filters, of particles or volumes."""
    group = form.addGroup("Filters")
    group.addParam(
        "lowpassResolution",
        params.FloatParam,
        allowsNull=True,
        label="Lowpass resolution (Å)",
        help="Take away detail finer than this. The gain is 1/2 at this resolution. Downsampling alone already "
        "takes away "
        "everything beyond the new Nyquist limit (twice the pixel size). Empty: no filter. Example: 8",
    )
    group.addParam(
        "highpassResolution",
        params.FloatParam,
        allowsNull=True,
        expertLevel=LEVEL_ADVANCED,
        label="Highpass resolution (Å)",
        help="Take away what varies more slowly than this, such as gradients of the ice; the mean goes with it. The "
        "gain is "
        "1/2 at this resolution. Give a number well above the particle's diameter. Empty: no filter. Example: 400",
    )
    group.addParam(
        "filterShape",
        params.EnumParam,
        choices=[shape.value for shape in FILTER_SHAPES],
        default=0,
        expertLevel=LEVEL_ADVANCED,
        label="Filter shape",
        help="The edge of lowpass and highpass. _Butterworth_: smooth, 1 / (1 + (f/fc)^(2 order)). _raised cosine_: "
        "from 1 to "
        "0 over the given width, as in RELION.",
    )
    group.addParam(
        "filterOrder",
        params.IntParam,
        default=8,
        condition=f"filterShape == {FILTER_SHAPES.index(FilterShape.BUTTERWORTH)}",
        expertLevel=LEVEL_ADVANCED,
        label="Filter order",
        help="Steepness of the Butterworth edge: 8 is usual; larger is steeper, and rings more.",
    )
    group.addParam(
        "filterWidth",
        params.FloatParam,
        default=2,
        condition=f"filterShape == {FILTER_SHAPES.index(FilterShape.RAISED_COSINE)}",
        expertLevel=LEVEL_ADVANCED,
        label="Filter width (Fourier shells)",
        help="Full width of the cosine edge, in Fourier shells (pixels of the output's Fourier transform; one shell is "
        "1 / (box x pixel size) in 1/Å). 2 is RELION's; wider rings less.",
    )


def _defineNormalization(form):
    group = form.addGroup("Normalization")
    group.addParam(
        "doNormalize",
        params.BooleanParam,
        default=False,
        label="Normalize background",
        help="Give each output image a flat background of mean 0 and deviation 1, as RELION's preprocessing does: a "
        "plane "
        "is fitted outside the circle and taken away. Averaging pixels shrinks the noise, so images that were "
        "normalised before are not any more after downsampling.",
    )
    group.addParam(
        "backRadius",
        params.IntParam,
        default=HALF_THE_OUTPUT_BOX,
        condition="doNormalize",
        label="Background radius (px)",
        help="Radius of the circle, in pixels of the output, outside of which is background. -1: half the output box.",
    )


def _defineStorage(form):
    group = form.addGroup("Storage")
    group.addParam(
        "saveFloat16",
        params.BooleanParam,
        default=False,
        label="Save results in 16-bit floating point",
        help="Half the disk space (MRC mode 12), for a rounding of about 2e-4 of the images' deviation. RELION 4 "
        "and later, "
        "cryoSPARC and cryoDRGN read it; Xmipp programs that write images again and RELION 3.1 do not.",
    )
    group.addParam(
        "particlesPerStack",
        params.IntParam,
        default=DEFAULT_PARTICLES_PER_STACK,
        expertLevel=LEVEL_ADVANCED,
        label="Particles per stack",
        help="The output is written in stack files of up to so many particles.",
    )
    group.addParam(
        "skipCorrupt",
        params.BooleanParam,
        default=False,
        expertLevel=LEVEL_ADVANCED,
        label="Skip corrupt particles",
        help="What to do with particles that cannot be used: their file is missing or cut short, their box is another, "
        "their pixels are not numbers, their alignment matrix is singular … _No_: all images are worked through, then "
        "the run fails, with all such particles in _bad_particles.star_ in its folder. _Yes_: they are left out, and "
        "listed there; the summary says how many.",
    )


def _defineStreaming(form):
    ProtStreamingBase._defineStreamingParams(None, form)
    form.getParam("streamingSleepOnWait").help.set(
        "Only for inputs that are still open, such as particles that are being extracted while the microscope runs: so "
        "many seconds pass between two looks at them. A look at inputs that have not changed costs next to nothing."
    )
    form.addParam(
        "streamingBatchWait",
        params.IntParam,
        default=60,
        label="Longest wait for a full stack (secs)",
        help="Only for open inputs. Particles are downsampled when there are enough of them for a stack (see "
        "_Particles per stack_), or when the first of them has waited so long. Shorter: they are there sooner, in more "
        "and smaller stacks. Particles that a connected alignment does not have yet wait until it has them.",
    )
