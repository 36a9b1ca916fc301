# Tags audio without torch: docker build -t ced . && docker run --rm -v "$PWD:/audio" ced tag /audio
FROM python:3.13-slim
WORKDIR /app
COPY requirements-lite.txt .
RUN pip install --no-cache-dir -r requirements-lite.txt
COPY . .
RUN pip install --no-cache-dir --no-deps . && rm -rf /app/*
# Downloaded models are kept in this folder: mount it to keep them between runs.
ENV HF_HOME=/models
WORKDIR /audio
ENTRYPOINT ["ced"]
CMD ["--help"]
