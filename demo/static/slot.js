// One place for a picture: choose, drop or paste a file; it is sent to /picture, and the value becomes its token.
const label = () => element.querySelector("label");
const show = () => {
  const token = typeof props.value === "string" ? props.value : "";
  const image = element.querySelector("img");
  if (!image) return;
  image.hidden = !token;
  if (token) image.src = "picture/" + encodeURIComponent(token);
  else image.removeAttribute("src");
};
const wrong = (text) => { element.querySelector(".wrong").textContent = text; };
const take = async (file) => {
  if (!file) return;
  wrong("");
  if (file.size > Number(element.querySelector(".slot").dataset.limit)) {
    wrong("The picture is larger than 20 MB: save a smaller version of it.");
    return;
  }
  try {
    const answer = await fetch("picture", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const said = await answer.json();
    if (said.token) { props.value = said.token; show(); trigger("change"); } else wrong(said.error || "The picture was refused.");
  } catch (error) {
    wrong("The picture could not be sent: is the demo still running?");
  }
};
element.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  event.stopPropagation();
  const file = event.target.files[0];
  take(file).finally(() => { event.target.value = ""; });
});
element.addEventListener("dragover", (event) => { event.preventDefault(); label().classList.add("over"); });
element.addEventListener("dragleave", () => label().classList.remove("over"));
element.addEventListener("drop", (event) => { event.preventDefault(); label().classList.remove("over"); take(event.dataTransfer.files[0]); });
element.addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
watch("value", () => { wrong(""); show(); });
show();
