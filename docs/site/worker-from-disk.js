// A browser starts no worker for pages that are opened from disk. Here a hidden frame runs its script instead.
if (location.protocol === "file:") {
  // Text, since a message's source is the window whose script sends it.
  const WORKER_SCOPE = `
    postMessage = (data) => parent.postMessage(data, "*");
    importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((loaded) => {
      const script = document.body.appendChild(document.createElement("script"));
      script.onload = loaded;
      script.src = url;
    })), Promise.resolve());`;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.body.appendChild(document.createElement("iframe"));
      this.frame.hidden = true;
      const inside = this.frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source !== inside) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      });
      inside.document.body.appendChild(inside.document.createElement("script")).textContent = WORKER_SCOPE;
      this.started = new Promise((started) => {
        const script = inside.document.createElement("script");
        script.onload = started;
        script.src = url;
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.started.then(() =>
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })),
      );
    }

    terminate() {
      this.frame.remove();
    }
  };
}
