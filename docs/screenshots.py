# SPDX-License-Identifier: GPL-3.0-or-later
"""``xvfb-run -s "-screen 0 1500x1000x24" python docs/screenshots.py FOLDER``: pictures of all windows.

Opens the forms, wizards and viewer on simulated particles, as a user does, presses through them, and writes
FOLDER/*.png and FOLDER/windows.json: for each window its texts, and what it put into the form.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tkinter as tk
import traceback
from pathlib import Path
from tkinter import ttk

import mrcfile
import numpy as np
from PIL import Image, ImageGrab

from downsample_plugin import demo, headless

SETTLE_MS = 600  # until a window has drawn itself
WIDTH, COLORS = 1100, 256  # px and number, of the result picture
GAP = 12  # px between two pictures side by side
RIGHT, LEFT = 0.35, -0.2  # where clicks go, of a section's half width


class Camera:
    """Takes pictures of windows and notes their texts."""

    def __init__(self, folder):
        self.folder, self.notes = folder, {}

    def take(self, name, window):
        """Picture and texts of a window as it is now."""
        window.lift()
        window.update()
        x, y = window.winfo_rootx(), window.winfo_rooty()
        box = (x, y, x + window.winfo_width(), y + window.winfo_height())
        ImageGrab.grab(box, xdisplay=os.environ["DISPLAY"]).save(self.folder / f"{name}.png")
        self.notes[name] = {"title": window.title(), "texts": [*texts(window)]}


def widgets(window):
    """A window and all that is in it."""
    yield window
    for child in window.winfo_children():
        yield from widgets(child)


def texts(window):
    """What can be read in a window."""
    for widget in widgets(window):
        if not widget.winfo_ismapped():
            continue
        if isinstance(widget, ttk.Treeview):
            for row in all_items(widget):
                yield " | ".join(map(str, widget.item(row)["values"])) or str(widget.item(row)["text"])
        elif isinstance(widget, (tk.Label, tk.Button)) and widget.cget("text"):
            yield str(widget.cget("text"))
        elif isinstance(widget, tk.Entry):
            yield widget.get()


def all_items(tree, item=""):
    """The items of a tree, at any depth."""
    for child in tree.get_children(item):
        yield child
        yield from all_items(tree, child)


def box_texts(window):
    """The texts of the boxes of runs."""
    for canvas in (widget for widget in widgets(window) if isinstance(widget, tk.Canvas)):
        for item in canvas.find_all():
            if canvas.type(item) == "text":
                yield canvas.itemcget(item, "text")


def dialog_of(root):
    """The dialog that is open over a window, at any depth, or None."""
    from pyworkflow.gui.dialog import Dialog

    return ([None] + [widget for widget in widgets(root) if isinstance(widget, Dialog)])[-1]


def press(window, label):
    """Press a button by its label."""
    next(w for w in widgets(window) if isinstance(w, tk.Button) and w.cget("text") == label).invoke()


def prepare(project):
    """Protocols on simulated particles: imported with their map, one downsampled."""
    demo.simulate(Path("simulated"))
    imported = demo.importSimulated(project)
    done = demo.downsample(
        project, imported, {"targetPixelSize": 2.6, "recenter": True, "lowpassResolution": 12.0, "cropSize": 112}
    )
    return imported, done, import_map(project)


def spoil(numbers):
    """Make some of the simulated images unusable, by their numbers from 0."""
    with mrcfile.mmap("simulated/simulated.mrcs", mode="r+") as stack:
        stack.data[numbers] = np.nan


def failed(project, protocol):
    """The same protocol, run and failed."""
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFailed()
    return protocol


def import_map(project):
    """The simulated particle itself, as a map."""
    from pwem.protocols import ProtImportVolumes

    protocol = project.newProtocol(
        ProtImportVolumes, filesPath="simulated", filesPattern="map.mrc", samplingRate=demo.APIX
    )
    return headless.run(project, protocol)


def downsample_map(project, done, volume):
    """The map in the box of the small particles."""
    from downsample_plugin.protocols import ProtDownsampleVolumes

    protocol = project.newProtocol(ProtDownsampleVolumes, lowpassResolution=10.0)
    connect(protocol, inputVolumes=(volume, "outputVolume"), likeParticles=(done, "outputParticles"))
    return headless.run(project, protocol)


def forms(project, imported, done, volume):
    """The four forms, filled in."""
    from downsample_plugin.protocols import (
        ProtDownsampleParticles,
        ProtDownsampleVolumes,
        ProtRestoreFullSize,
        ProtShiftParticleCenter,
    )

    small = project.newProtocol(
        ProtDownsampleParticles, targetPixelSize=3.0, recenter=True, lowpassResolution=12.0, doNormalize=True
    )
    connect(small, inputParticles=(imported, "outputParticles"))
    restore = project.newProtocol(ProtRestoreFullSize)
    connect(restore, inputParticles=(done, "outputParticles"), downsampled=(done, "outputParticles"))
    center = project.newProtocol(ProtShiftParticleCenter, xCenter=20.0, yCenter=-10.0, zCenter=0.0)
    connect(center, inputParticles=(imported, "outputParticles"), inputVolume=(volume, "outputVolume"))
    volumes = project.newProtocol(ProtDownsampleVolumes, fourierCropSize=64)
    connect(volumes, inputVolumes=(volume, "outputVolume"))
    return {"downsample": small, "restore": restore, "center": center, "volumes": volumes}


def connect(protocol, **inputs):
    """Connect inputs: (protocol, output)."""
    for name, (source, output) in inputs.items():
        getattr(protocol, name).set(source)
        getattr(protocol, name).setExtended(output)


def photograph_form(camera, master, name, protocol, wizards, of=""):
    """Open a form, take a picture of each of its tabs, press its wizards, whose pictures are named with `of`."""
    from pyworkflow.gui.form import FormWindow

    form = FormWindow(protocol.getClassName(), protocol, lambda *_: None, master)
    form.adjustSize()

    def look(_):
        (tabs,) = [w for w in widgets(form.root) if isinstance(w, ttk.Notebook)] or [None]
        for number, tab in enumerate(tabs.tabs() if tabs else [None]):
            if tabs:
                tabs.select(tab)
            camera.take(f"form_{name}" + (f"_{number + 1}" if number else ""), form.root)
        for parameter, act in wizards.items():
            photograph_wizard(camera, form, parameter, act, f"wizard_{of}{parameter}")
        form.root.quit()

    when_shown(form.root, lambda: form.root, look)
    form.show(center=True)
    form.root.destroy()


def photograph_wizard(camera, form, parameter, act, name):
    """Press the wizard of a parameter, act in its window, take its picture, accept it."""

    def look(dialog):
        act(dialog)
        camera.take(name, dialog)
        press(dialog, "Select" if hasattr(dialog, "table") else "OK")

    when_shown(form.root, lambda: dialog_of(form.root), look)
    form.wizards[parameter]().show(form)
    camera.notes[name]["form"] = {
        each: str(getattr(form.protocol, each).get()) for each in form.wizards if hasattr(form.protocol, each)
    }


def viewer_of(protocol, master):
    """What "Analyze results" opens."""
    from pwem import Domain
    from pyworkflow.viewer import DESKTOP_TKINTER

    viewerClass = Domain.findViewers(protocol, DESKTOP_TKINTER)[0]
    return viewerClass(project=protocol.getProject(), protocol=protocol, parent=master)


def photograph_viewer(camera, master, name, protocol, entries):
    """The viewer's form, and the windows that its entries open."""
    from matplotlib import pyplot

    viewer = viewer_of(protocol, master)

    def opened():
        return ([None] + [w for w in widgets(master.root) if isinstance(w, tk.Toplevel) and "Viewer" in w.title()])[-1]

    def look(form):
        camera.take(name, form)
        for entry, act in entries.items():
            (view,) = viewer._getVisualizeDict()[entry](entry)
            if act:
                act(view.getFigure())
            view.show(block=False)
            window = pyplot.get_current_fig_manager().window
            when_shown(window, lambda w=window: w, lambda w, e=entry: (camera.take(f"{name}_{e}", w), w.quit()))
            window.mainloop()
            pyplot.close()
        form.quit()
        form.destroy()

    when_shown(master.root, opened, look)
    viewer.visualize(protocol, windows=master)


def photograph_problem(camera, master, protocol):
    """What "Analyze results" shows of a run that has failed."""

    def look(dialog):
        camera.take("failed", dialog)
        camera.notes["failed"]["message"] = dialog.text.get("1.0", "end")
        press(dialog, "Close")

    when_shown(master.root, lambda: dialog_of(master.root), look)
    viewer_of(protocol, master).visualize(protocol, windows=master)


def photograph_project(camera, master, selected):
    """The project's window: the tree, run boxes, and the summary of a run that is selected; and the search."""
    from pyworkflow.gui.project.searchprotocol import SearchProtocolWindow

    view = master.getViewWidget()

    def look(_):
        camera.take("project", master.root)
        camera.notes["project"]["boxes"] = [*box_texts(master.root)]
        search = SearchProtocolWindow(master)
        search.root.deiconify()
        search.root.geometry("1200x300+50+50")
        search._searchVar.set("unbin")
        search._onSearchClick()
        search.root.update()
        camera.take("search", search.root)
        search.root.destroy()
        master.root.quit()

    master.root.deiconify()
    master.root.geometry("1450x950+0+0")
    view.refreshRuns()
    view.drawRunsGraph(reorganize=True)
    for tree in (widget for widget in widgets(master.root) if isinstance(widget, ttk.Treeview)):
        for item in all_items(tree):
            tree.item(item, open=True)
    view._selection.clear()
    view._selection.append(selected.getObjId())
    view._updateSelection()
    when_shown(master.root, lambda: master.root, look)
    master.root.mainloop()


def when_shown(root, find, act):
    """Act on a window, which `find` gives, or None, when it is on the screen and had time to draw itself."""

    def look():
        window = find()
        if window is not None and window.winfo_viewable():
            window.after(SETTLE_MS, guarded(lambda: act(window)))
        else:
            root.after(SETTLE_MS // 2, guarded(look))

    root.after(SETTLE_MS // 2, guarded(look))


def guarded(act):
    """What goes wrong inside Tk's loop ends the script."""

    def run():
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    return run


def turn_pages(figure):
    """Show the third particle, at 15 Å."""
    figure.browser.lowpass.set_val(15)
    figure.browser.show(3)


def choose_box(dialog, box):
    """Choose the row of a box; of None, leave the one that is chosen."""
    for row in dialog.table.get_children():
        if box in dialog.table.item(row)["values"][:1]:
            dialog.table.selection_set(row)
            dialog.table.see(row)


def slide_to(dialog, value):
    """Choose the second particle, or section, and a value."""
    dialog.chosen.set(2)
    dialog.slider.set(value)
    dialog.draw()
    dialog.canvas.draw()


def click_sections(dialog):
    """Click into the first section of the center picker, then into the second."""
    from matplotlib.backend_bases import MouseButton, MouseEvent

    dialog.canvas.draw()
    for axis, part in ((dialog.axes[0], RIGHT), (dialog.axes[1], LEFT)):
        x, y = axis.transData.transform((part * axis.get_xlim()[1], part * axis.get_ylim()[1]))
        dialog.canvas.callbacks.process(
            "button_press_event", MouseEvent("button_press_event", dialog.canvas, x, y, MouseButton.LEFT)
        )
    dialog.update()


def few_colors(source, path):
    """A picture in so many colours as it needs to be looked at, smaller by half."""
    with Image.open(source) as picture:
        picture.convert("RGB").resize((WIDTH, picture.height * WIDTH // picture.width)).quantize(
            COLORS, Image.Quantize.FASTOCTREE
        ).save(path)


def side_by_side(folder, left, right, name):
    """Two pictures in one."""
    pictures = [Image.open(folder / f"{each}.png") for each in (left, right)]
    both = Image.new("RGB", (sum(p.width for p in pictures) + GAP, max(p.height for p in pictures)), "white")
    both.paste(pictures[0], (0, 0))
    both.paste(pictures[1], (pictures[0].width + GAP, (both.height - pictures[1].height) // 2))
    both.save(folder / f"{name}.png")


def main(folder):
    """Take all pictures."""
    camera = Camera(Path(folder).resolve())
    camera.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        headless.prepare(place)
        project = headless.createProject("screenshots")
        imported, done, volume = prepare(project)
        small_map = downsample_map(project, done, volume)
        few_colors(done.picturePath(), camera.folder / "result.png")
        few_colors(small_map.picturePath(), camera.folder / "volumes.png")
        from pyworkflow.gui.project import ProjectWindow

        master = ProjectWindow(project.getPath())
        protocols = forms(project, imported, done, volume)
        slide = {"lowpassResolution": 15.0, "highpassResolution": 150.0, "backRadius": 20}
        choose = {"targetPixelSize": None, "cropSize": 112, "fourierCropSize": 56}
        wizards = {name: lambda dialog, box=box: choose_box(dialog, box) for name, box in choose.items()}
        for name, value in slide.items():
            wizards[name] = lambda dialog, value=value: slide_to(dialog, value)
        photograph_form(camera, master, "downsample", protocols["downsample"], wizards)
        photograph_form(camera, master, "restore", protocols["restore"], {})
        photograph_form(camera, master, "center", protocols["center"], {"xCenter": click_sections})
        photograph_viewer(
            camera,
            master,
            "viewer",
            done,
            {"showPicture": None, "browsePairs": turn_pages, "showSpectra": None, "showShifts": None},
        )
        for name in ("restore", "center"):
            run = headless.run(project, protocols[name])
            photograph_viewer(camera, master, f"viewer_{name}", run, {"showPlaces": None, "browsePlaces": turn_pages})
        spoil([17, 63, 80])
        photograph_problem(camera, master, failed(project, protocols["downsample"]))
        photograph_project(camera, master, done)
        filters = {"lowpassResolution": lambda dialog: slide_to(dialog, 25.0)}
        photograph_form(camera, master, "volumes", protocols["volumes"], filters, of="volumes_")
        views = dict.fromkeys(("showPicture", "showSections", "showSpectra"))
        photograph_viewer(camera, master, "volumes_viewer", small_map, views)
        side_by_side(camera.folder, "form_downsample_2", "wizard_targetPixelSize", "form_and_wizard")
        (camera.folder / "windows.json").write_text(json.dumps(camera.notes, indent=1, ensure_ascii=False))
        os._exit(0)  # Scipion's window has threads of its own


if __name__ == "__main__":
    main(sys.argv[1])
