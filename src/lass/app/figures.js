// Pictures side by side, and other candidates, each of which can be shown in place of the estimates. The value is
// {pictures: [{path, caption, source}], candidates: [{paths, caption}]}, where `source` is the number of an estimate
// or null, and the paths are those of files on the server. Or {tracks: [{path, spectrogram, caption}]}.

const figures = element.querySelector(".lass-figures");
const sounds = element.querySelector(".lass-tracks");
const others = element.querySelector(".lass-others");
const list = element.querySelector(".lass-candidates");

const address = (path) => `gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;

function image(path, caption) {
  const picture = document.createElement("img");
  picture.src = address(path);
  picture.alt = caption;
  return picture;
}

function show_figures(pictures, candidate) {
  figures.replaceChildren(
    ...pictures.map(({ path, caption, source }) => {
      const figure = document.createElement("figure");
      const text = document.createElement("figcaption");
      const replaced = candidate && source !== null;
      text.textContent = replaced ? `candidate, source ${source + 1}` : caption;
      figure.append(image(replaced ? candidate.paths[source] : path, text.textContent), text);
      return figure;
    }),
  );
}

function show_tracks(tracks) {
  sounds.replaceChildren(
    ...tracks.map(({ path, spectrogram, caption }) => {
      const figure = document.createElement("figure");
      const text = document.createElement("figcaption");
      const player = document.createElement("audio");
      text.textContent = caption;
      player.controls = true;
      player.preload = "metadata";
      player.src = address(path);
      figure.append(text, image(spectrogram, `spectrogram of ${caption}`), player);
      return figure;
    }),
  );
}

function show() {
  const { pictures = [], candidates = [], tracks = [] } = props.value || {};
  show_tracks(tracks);
  show_figures(pictures, null);
  others.hidden = !candidates.length;
  list.replaceChildren(
    ...candidates.map((candidate) => {
      const button = document.createElement("button");
      const sources = document.createElement("span");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      sources.append(...candidate.paths.map((path, i) => image(path, `source ${i + 1}`)));
      button.append(sources, candidate.caption);
      button.addEventListener("click", () => {
        const chosen = button.getAttribute("aria-pressed") !== "true"; // a second click shows the estimates again
        for (const each of list.children) each.setAttribute("aria-pressed", String(chosen && each === button));
        show_figures(pictures, chosen ? candidate : null);
      });
      return button;
    }),
  );
}

watch("value", show);
show();
