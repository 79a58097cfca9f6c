// One image field: choose, drop or paste a file. It is posted to /image, and its token becomes the value.
const label = () => element.querySelector("label.file");
const show = () => {
  const token = typeof props.value === "string" ? props.value : "";
  const image = element.querySelector("img");
  if (!image) return;
  image.hidden = !token;
  if (token) image.src = "image/" + encodeURIComponent(token);
  else image.removeAttribute("src");
};
const showError = (text) => { element.querySelector(".wrong").textContent = text; };
const take = async (file) => {
  if (!file) return;
  showError("");
  if (file.size > Number(element.querySelector(".slot").dataset.limit)) {
    showError("The image is larger than 20 MB: save a smaller version of it.");
    return;
  }
  try {
    const answer = await fetch("image", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    if (!(answer.headers.get("Content-Type") || "").startsWith("application/json")) {
      showError(`A proxy in front of the demo refused the image (status ${answer.status}).`);
      return;
    }
    const reply = await answer.json();
    if (reply.token) { props.value = reply.token; show(); trigger("change"); } else showError(reply.error || "The image was refused.");
  } catch (error) {
    showError("The image could not be sent: check that the demo is still running.");
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
watch("value", () => { showError(""); show(); });
show();
