# SPDX-License-Identifier: GPL-3.0-or-later
"""
@article{delaRosaTrevin2016,
  title = {Scipion: A software framework toward integration, reproducibility and validation in 3D electron microscopy},
  author = {de la Rosa-Trevín, J. M. and Quintana, A. and del Cano, L. and Zaldívar, A. and others},
  journal = {Journal of Structural Biology},
  volume = {195},
  pages = {93-99},
  year = {2016},
  doi = {10.1016/j.jsb.2016.04.010}
}

@article{Frigo2005,
  title = {The Design and Implementation of FFTW3},
  author = {Frigo, Matteo and Johnson, Steven G.},
  journal = {Proceedings of the IEEE},
  volume = {93},
  pages = {216-231},
  year = {2005},
  doi = {10.1109/JPROC.2004.840301}
}

@article{Ilca2015,
  title = {Localized reconstruction of subunits from electron cryomicroscopy images of macromolecular complexes},
  author = {Ilca, S. L. and Kotecha, A. and Sun, X. and Poranen, M. M. and Stuart, D. I. and Huiskonen, J. T.},
  journal = {Nature Communications},
  volume = {6},
  pages = {8843},
  year = {2015},
  doi = {10.1038/ncomms9843}
}

@article{Scheres2012,
  title = {RELION: Implementation of a Bayesian approach to cryo-EM structure determination},
  author = {Scheres, Sjors H. W.},
  journal = {Journal of Structural Biology},
  volume = {180},
  pages = {519-530},
  year = {2012},
  doi = {10.1016/j.jsb.2012.09.006}
}
"""
