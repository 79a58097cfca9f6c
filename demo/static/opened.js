// The link that the page was opened by: its question goes to Python, which checks it and asks it.
const query = new URLSearchParams(location.search);
if (query.has("example") || query.has("question")) trigger("select", { query: location.search });
